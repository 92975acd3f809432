"""Events of a run with files as Gradio's clients get them. Fields are added, never renamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

from app.api.script_events import script_event
from app.protocol import ResultSaved, RunEvent
from app.run_view import RunView
from app.ui.files import plain


def event_with_file(event: RunEvent) -> dict[str, Any] | None:
    """Returns the event for scripts, a result with its file; None for one they do not get."""
    told = script_event(event)
    if isinstance(event, ResultSaved) and told is not None:
        told["image"] = _file(event)
    return told


def done_event(workflow: str, variables: Mapping[str, Any], view: RunView) -> dict[str, Any]:
    """Returns the last event of a stream that succeeded, with the results."""
    finals = [result for result in view.results if result.final] or list(view.results)
    return {
        "event": "done",
        "images": [_file(result) for result in finals],
        "seed": view.seed,
        "seconds": view.timings.total_s if view.timings else None,
        "unchanged": view.unchanged,
        "sentence": view.status,
        "workflow": workflow,
        "variables": plain(dict(variables)),
        "outputs": plain(list(view.outputs)),
        "metadata": [_file(result, sidecar=True) for result in finals],
        "loaded": list(view.loaded),
        "notice": view.notice,
    }


def _file(result: ResultSaved, *, sidecar: bool = False) -> dict[str, Any]:
    path = Path(result.sidecar if sidecar else result.path)
    file = FileData(
        path=str(path),
        orig_name=path.name,
        size=path.stat().st_size,
        mime_type="application/json" if sidecar else result.content_type,
    )
    return dict(file.model_dump())
