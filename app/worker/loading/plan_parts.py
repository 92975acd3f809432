"""The parts of all steps of a plan: what preparing found, or what is resolved here."""

from __future__ import annotations

from app.worker.device import Device
from app.worker.loading.load import find_parts
from app.worker.loading.parts import StepParts
from app.worker.loading.task_parts import find_task_parts
from app.workflow.models.specs import PlanSpecs, StepSpecs
from app.workflow.plan import PipelineStep, Plan, TaskStep


def plan_parts(plan: Plan, specs: PlanSpecs | None, device: Device) -> dict[str, StepParts]:
    """What each step is put together from, by the steps' names. Raises LoadError with a sentence.

    `specs` is what preparing found, from files that are still the same. Resolved here is what it
    leaves out or takes code to know, and everything where it was made for another kind of device.
    """
    given: dict[str, StepSpecs] = {}
    if specs is not None and specs.accelerator == device.is_accelerator:
        given = {name: each for name, each in specs.steps.items() if each.is_final}
    found: dict[str, StepParts] = {}
    for step in plan.steps:
        if isinstance(step, PipelineStep):
            found[step.name] = find_parts(step, found, given.get(step.name))
        elif isinstance(step, TaskStep) and step.components:
            found[step.name] = find_task_parts(step, device, given.get(step.name))
    return found
