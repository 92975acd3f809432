"""Checks whether a run's files are on this machine."""

from __future__ import annotations

from app.machine import expects_accelerator
from app.settings import WorkerSettings
from app.workflow.models.hub import Place, held
from app.workflow.models.plan_specs import plan_specs
from app.workflow.models.specs import PlanSpecs
from app.workflow.models.wanted import Wanted
from app.workflow.plan import Plan
from app.workflow.remote import remote_values
from app.workflow.request_keys import request_key


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
