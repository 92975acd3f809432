"""Applies a step's changes to its scheduler."""

from __future__ import annotations

from typing import Any

import diffusers

from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import SchedulerChange
from app.errors import LoadError


def changed_scheduler(step: PipelineStep, name: str, change: SchedulerChange, held: Any) -> Any:
    """Returns a new scheduler with the step's changes to the held one. Raises LoadError."""
    where = f"{step.place}.pipeline.{name}"
    if held is None:
        raise LoadError(
            f"The pipeline of '{step.model}' has no {name} to change.",
            hint=f"Remove {where}.",
        )
    scheduler_class = type(held)
    if change.class_name is not None:
        scheduler_class = getattr(diffusers, change.class_name.rpartition(".")[2])
    scheduler = scheduler_class.from_config(held.config, **change.config)
    if change.shift is not None:
        if not hasattr(scheduler, "set_shift"):
            raise LoadError(
                f"The scheduler {scheduler_class.__name__} has no shift.",
                hint=f"Remove 'shift' from {where}.",
            )
        scheduler.set_shift(change.shift)
    return scheduler
