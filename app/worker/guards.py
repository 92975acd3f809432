"""Guards what a run or the worker can do without: measures, previews, work in idle moments."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from app.errors import first_line

log = logging.getLogger(__name__)


@contextlib.contextmanager
def dispensable(what: str) -> Iterator[None]:
    """Logs whatever error ends the block, and goes on behind it; `what` begins the log's line.

    Only for what nobody waits for: an error here must not take the place of a run's own, nor end a
    worker that holds models. A cancel is no error and passes.
    """
    try:
        yield
    except Exception as error:
        log.warning("%s: %s: %s", what, type(error).__name__, first_line(error))
        log.debug("In full:", exc_info=True)
        # Its frames hold tensors.
        error.__traceback__ = None
