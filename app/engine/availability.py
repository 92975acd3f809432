"""What of a run's needs is on this machine already."""

from __future__ import annotations

import logging

from app.workflow.models.hub import Place, held, this_machine
from app.workflow.models.wanted import Wanted, bring_all
from app.workflow.plan import Plan
from app.workflow.remote import remote_values

log = logging.getLogger(__name__)


class _Lacking(Exception):
    """A model is not here."""


def is_prepared(plan: Plan) -> bool:
    """Whether all that the plan needs is here, as far as this can be told without a worker."""
    place = this_machine()

    def look(model: Wanted) -> None:
        if not is_here(model, place):
            raise _Lacking

    try:
        bring_all(plan, look, place)
    except _Lacking:
        return False
    except Exception:
        # A model's files may be anything: what they raise fails the run when it is prepared, where
        # it is told in a sentence, and not the call that asks for the run.
        log.debug("What the plan needs cannot be told yet", exc_info=True)
        return False
    return not remote_values(plan)


def is_here(model: Wanted, place: Place) -> bool:
    """Whether the wanted files of a model are at the place."""
    source = model.source
    return held(place, source.model, source.revision, model.choose).is_whole
