"""What a task's step computes with."""

from __future__ import annotations

from app.worker.device import Device
from app.worker.loading.components import part_of
from app.worker.loading.parts import TaskParts
from app.workflow.models.resolve import component_specs
from app.workflow.models.specs import local_folder
from app.workflow.plan import TaskStep


def find_task_parts(step: TaskStep, device: Device) -> TaskParts:
    """What the step computes with.

    Raises LoadError with a sentence.
    """
    specs = component_specs(step, local_folder, accelerator=device.is_accelerator)
    return TaskParts(tuple(map(part_of, specs.components)))
