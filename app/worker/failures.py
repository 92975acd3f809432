"""Error reports of failed runs, as plain text."""

from __future__ import annotations

import inspect
import traceback
import warnings
from typing import Any

from app.errors import ErrorReport, OutOfMemory, StepError, WorkbenchError
from app.worker.context import RunContext
from app.worker.device import is_out_of_memory
from app.worker.guards import optional_work

CAST = "invalid value encountered in cast"
"""Prefix of numpy's warning."""


def refuse_nan() -> None:
    """Makes a cast of NaN an error in this process, instead of a black image.

    NaN comes from a model that computes beyond the range of its dtype, most often an autoencoder in
    float16. Diffusers, video writers and tasks all cast to bytes with numpy, which warns of NaN.
    """
    warnings.filterwarnings("error", CAST, RuntimeWarning)


def is_nan_error(error: BaseException) -> bool:
    return isinstance(error, RuntimeWarning) and str(error).startswith(CAST)


def nan_error(step: str) -> StepError:
    return StepError(
        f"The picture of step '{step}' contains NaN.",
        hint="A model computed beyond the range of its dtype. Load it in bfloat16 or float32, the"
        " vae first of all.",
    )


def report_of(error: Exception, context: RunContext) -> ErrorReport:
    """Returns the report of the error that ended the run; clears the error's traceback.

    Neither keeps the error's frames alive, which hold tensors.
    """
    detail = "".join(traceback.format_exception(error))
    found = _workbench_error(error, context)
    error.__traceback__ = None
    return found.report().model_copy(update={"detail": found.detail or detail})


def _workbench_error(error: Exception, context: RunContext) -> WorkbenchError:
    if is_out_of_memory(error):
        free = ""
        with optional_work("Memory could not be measured"):
            free_bytes, total_bytes = context.device.free_and_total_bytes()
            free = f": {free_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB are free"
        return OutOfMemory(
            f"Memory ran out in step '{context.step}' ({context.phase}){free}.",
            hint="Ask for a smaller picture or fewer at once, or free the GPU first.",
        )
    if isinstance(error, WorkbenchError):
        return error
    if is_nan_error(error):
        return nan_error(context.step)
    what = f"{type(error).__name__}: {error}".rstrip(".") + "."
    if scheduler := _scheduler_of(error):
        return StepError(
            f"The scheduler {scheduler} failed in step '{context.step}'. {what}",
            hint="Not all of a scheduler's settings work together, or with every number of steps."
            " Change them, or choose another scheduler.",
        )
    return StepError(f"{type(error).__name__} in step '{context.step}': {error}")


def _scheduler_of(error: Exception) -> str:
    """Returns class and settings of the scheduler that raised the error; "" for other errors."""
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        scheduler: Any = frame.f_locals.get("self")
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("diffusers.schedulers.") and hasattr(scheduler, "config"):
            name = type(scheduler).__name__
            defaults = inspect.signature(type(scheduler)).parameters
            settings = ", ".join(
                f"{key}={value!r}"
                for key, value in scheduler.config.items()
                if key in defaults and value != defaults[key].default
            )
            return f"{name} ({settings})" if settings else name
    return ""
