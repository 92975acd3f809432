"""In what the weights of steps are loaded whose documents leave it open: that depends on where."""

from __future__ import annotations

from app.workflow.plan import PipelineStep, Step, TaskStep
from app.workflow.plan_settings import DType


def for_device(step: Step, *, accelerator: bool) -> Step:
    """The step with the dtype it has there, where nobody chose one; see `task_dtype`."""
    if accelerator and isinstance(step, PipelineStep) and step.dtype_open:
        return step.model_copy(update={"dtype": "float16"})
    return step


def task_dtype(step: TaskStep, *, accelerator: bool) -> DType:
    """In what the models of a task are loaded: half the bytes where they move to a card."""
    return "float16" if accelerator and not step.on_cpu else "float32"
