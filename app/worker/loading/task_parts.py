"""The models of a task's step."""

from __future__ import annotations

from app.dialect.plan import TaskStep
from app.models.resolve import component_specs
from app.models.specs import StepSpecs, local_folder
from app.worker.device import Device
from app.worker.loading.components import part_of
from app.worker.loading.parts import TaskParts


def find_task_parts(step: TaskStep, device: Device, specs: StepSpecs | None = None) -> TaskParts:
    """Returns the models the task needs, as `specs` list them; without specs the step is resolved.

    Raises LoadError.
    """
    if specs is None:
        specs = component_specs(step, local_folder, accelerator=device.is_accelerator)
    return TaskParts(tuple(map(part_of, specs.components)))
