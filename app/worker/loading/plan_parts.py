"""Parts of all steps of a plan: from the specs that preparing made, else resolved here."""

from __future__ import annotations

from app.dialect.plan import PipelineStep, Plan, TaskStep
from app.models.specs import PlanSpecs, StepSpecs
from app.worker.device import Device
from app.worker.loading.load import find_parts
from app.worker.loading.parts import StepParts
from app.worker.loading.task_parts import find_task_parts


def plan_parts(plan: Plan, specs: PlanSpecs | None, device: Device) -> dict[str, StepParts]:
    """Returns the parts of each step by its name. Raises LoadError with a sentence.

    `specs` were made when the run was prepared, from files that are unchanged. Steps that they
    leave out or that need code are resolved here; all steps if they are for another kind of device.
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
