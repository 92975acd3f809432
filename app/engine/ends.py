"""Terminal events of runs that their worker did not end, with sentences for users."""

from __future__ import annotations

import time
import traceback

from app.engine.run import Run
from app.engine.slots.worker import WorkerExit
from app.errors import ErrorReport, LoadError, RunError, WorkerDied, first_line
from app.protocol import FilesMissing, RunCancelled, RunFailed


def engine_failure(run: Run, error: Exception) -> RunFailed:
    """Returns the failure of a run by an error of this process."""
    failed = RunError(
        f"The engine could not continue the run: {first_line(error)}",
        hint="The server's log says more.",
        detail="".join(traceback.format_exception(error)),
    )
    return RunFailed(run_id=run.run_id, time=time.time(), error=failed.report())


def worker_death(
    run: Run, ended: WorkerExit, killed: str, *, closing: bool
) -> RunCancelled | RunFailed:
    """Returns the end of a run whose worker ended, or was killed for the reason `killed`."""
    if killed and (closing or run.cancel_asked_at is not None):
        return RunCancelled(run_id=run.run_id, time=time.time(), phase=run.phase, notice=killed)
    died = WorkerDied(
        f"{killed or ended.sentence} The run was {_activity(run)}.",
        hint="" if killed else ended.hint,
        detail=ended.last_lines,
    )
    return RunFailed(run_id=run.run_id, time=time.time(), error=died.report())


def files_gone(missing: FilesMissing) -> ErrorReport:
    """Returns the error for files of a model that are gone after they were fetched."""
    names = ", ".join(f"'{name}'" for name in missing.names[:3]) or "its configuration"
    error = LoadError(
        f"The files of '{missing.source.model}' are gone after their download: the worker does not"
        f" find {names}.",
        hint="Run it again when nobody removes files from the hub's cache.",
    )
    return error.report()


def _activity(run: Run) -> str:
    words = {"queued": "about to start", "saving": "saving its results"}
    return words.get(run.phase, run.phase)
