"""Checks whether a run's files are on this machine."""

from __future__ import annotations

from app.dialect.plan import Plan
from app.machine import expects_accelerator
from app.models.hub import Place, held
from app.models.plan_specs import plan_specs
from app.models.specs import PlanSpecs
from app.models.wanted import Wanted
from app.planning.plan_media import remote_values
from app.planning.request_keys import request_key
from app.settings import WorkerSettings


def identified_if_here(plan: Plan, settings: WorkerSettings) -> tuple[PlanSpecs | None, str | None]:
    """Returns what `identified` returns if all files of the plan are here; else None twice."""
    if remote_values(plan):
        return None, None
    specs, key = identified(plan, settings)
    return (None, None) if specs.missing else (specs, key)


def identified(plan: Plan, settings: WorkerSettings) -> tuple[PlanSpecs, str | None]:
    """Returns what the plan's steps load on the kind of device that the workers seem to have, and
    its request key; None for a plan with a drawn seed, which is never identical to another."""
    specs = plan_specs(plan.steps, accelerator=expects_accelerator(settings.split()[0].device))
    key = request_key(plan, settings.device_names, specs) if plan.seed_given else None
    return specs, key


def is_here(model: Wanted, place: Place) -> bool:
    """Returns whether the wanted files of a model are at the place."""
    source = model.source
    return held(place, source.model, source.revision, model.choose).is_whole
