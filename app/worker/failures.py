"""Error reports of failed runs, as plain text."""

from __future__ import annotations

import traceback

from app.errors import ErrorReport, OutOfMemory, StepError, WorkbenchError
from app.worker.context import RunContext
from app.worker.device import is_out_of_memory
from app.worker.guards import optional_work
from app.worker.nan import is_nan_error, nan_error


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
    return StepError(f"{type(error).__name__} in step '{context.step}': {error}")
