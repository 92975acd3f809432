"""Checks whether a run's files are on this machine."""

from __future__ import annotations

import logging

from app.machine import expects_accelerator
from app.settings import WorkerSettings
from app.workflow.models.hub import Place, held, this_machine
from app.workflow.models.plan_specs import plan_specs
from app.workflow.models.specs import PlanSpecs
from app.workflow.models.wanted import Wanted, bring_all
from app.workflow.plan import Plan
from app.workflow.remote import remote_values
from app.workflow.request_keys import request_key

log = logging.getLogger(__name__)


class _NotHere(Exception):
    """Raised when a model is not on this machine."""


def is_prepared(plan: Plan) -> bool:
    """Returns whether all files of the plan are here, as far as is known without a worker."""
    place = this_machine()

    def look(model: Wanted) -> None:
        if not is_here(model, place):
            raise _NotHere

    try:
        bring_all(plan, look, place)
    except _NotHere:
        return False
    except Exception:
        # A damaged model may raise anything. The same error will fail the run in its preparation,
        # with a sentence, rather than this call.
        log.debug("The files of a plan are not known yet", exc_info=True)
        return False
    return not remote_values(plan)


def identified(plan: Plan, settings: WorkerSettings) -> tuple[PlanSpecs, str | None]:
    """Returns what the steps of a plan load that is prepared, on the kind of device that the
    workers seem to have, and the key of its request; None for a plan whose seed is drawn, which is
    another request each time."""
    specs = plan_specs(plan.steps, accelerator=expects_accelerator(settings.split()[0].device))
    key = request_key(plan, settings.device_names, specs) if plan.seed_given else None
    return specs, key


def is_here(model: Wanted, place: Place) -> bool:
    """Returns whether the wanted files of a model are at the place."""
    source = model.source
    return held(place, source.model, source.revision, model.choose).is_whole
