"""A guard for optional work: measurements, previews, idle-time work."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from app.errors import first_line

log = logging.getLogger(__name__)


@contextlib.contextmanager
def optional_work(what: str) -> Iterator[None]:
    """Logs and suppresses any Exception in the block; `what` begins the log line.

    Only for optional work: its error must not replace a run's own, nor end a worker that holds
    models. `Cancelled` passes.
    """
    try:
        yield
    except Exception as error:
        log.warning("%s: %s: %s", what, type(error).__name__, first_line(error))
        log.debug("In full:", exc_info=True)
        # The traceback's frames hold tensors.
        error.__traceback__ = None
