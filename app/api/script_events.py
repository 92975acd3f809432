"""Events of a run as scripts get them. Fields are added, never renamed."""

from __future__ import annotations

from typing import Any

from app.errors import ErrorReport
from app.protocol import (
    Downloading,
    FetchingMedia,
    Loading,
    MemoryRanOut,
    Noticed,
    PhaseChanged,
    ResultSaved,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunQueued,
    RunSucceeded,
    StepProgress,
    StepRemembered,
)


def failure_event(error: ErrorReport) -> dict[str, Any]:
    """Returns the last event of a stream that failed."""
    told = error.model_dump(mode="json", exclude={"detail"})
    return {"event": "error", "message": error.sentence(), "error": told}


def script_event(event: RunEvent) -> dict[str, Any] | None:
    """Returns the event for scripts, without the file of a result; None for one they do not
    get."""
    match event:
        case RunQueued():
            return {"event": "queued", "position": event.position, "notice": event.notice}
        case FetchingMedia():
            return event.model_dump(
                include={"url", "number", "count", "fetched_bytes", "total_bytes"}
            ) | {"event": "fetching"}
        case StepRemembered():
            return event.model_dump(include={"step", "made_by", "made_at"}) | {
                "event": "remembered"
            }
        case Downloading():
            return event.model_dump(
                include={"model", "done_bytes", "total_bytes", "seconds_left"}
            ) | {"event": "downloading"}
        case Loading():
            return event.model_dump(
                include={"component", "model", "loaded_bytes", "total_bytes"}
            ) | {"event": "loading"}
        case PhaseChanged():
            return {"event": "phase", "step": event.step, "phase": event.phase}
        case MemoryRanOut():
            return {"event": "memory_ran_out", "step": event.step, "phase": event.phase,
                    "message": event.sentence}  # fmt: skip
        case Noticed():
            return {"event": "notice", "step": event.step, "message": event.sentence}
        case StepProgress():
            return event.model_dump(
                include={"step", "done", "total", "seconds_left", "segment", "segments"}
            ) | {"event": "step"}
        case ResultSaved():
            return event.model_dump(include={"seed", "index", "final"}) | {"event": "result"}
        case RunCancelled():
            return {"event": "cancelled", "phase": event.phase, "notice": event.notice}
        case RunFailed():
            return failure_event(event.error)
        case RunSucceeded():
            return None  # told as `done`, with the results
        case _:
            return None
