"""A run and its results as the API reports them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import JsonValue

from app.api.errors import ErrorBody, Told, error_body
from app.engine.run import RunInfo, RunState
from app.outputs import RUN_ID
from app.protocol import Phase, ResultSaved, RunEvent
from app.run_view import RunView, advance

RESULT_ID = re.compile(rf"({RUN_ID.pattern})-([0-9]{{1,6}})")


class ResultReport(Told):
    """One result of a run: a file, by its address."""

    id: str
    url: str
    """Address of the file, relative to the server's."""
    record_url: str
    """Address of its record: workflow, inputs, seed, versions, timings (JSON)."""
    name: str
    content_type: str
    width: int | None
    height: int | None
    seed: int
    index: int
    """Within its step, from 0."""
    step: str
    final: bool
    """True for results of the last step that saves any."""
    text: str
    """The beginning of text or data; else empty."""


class RunReport(Told):
    """The state of a run. Times are Unix seconds."""

    run_id: str
    workflow: str
    """Stem of the workflow's file name."""
    title: str
    state: RunState
    phase: Phase
    status: str
    """One line for people."""
    progress: float | None
    """Of the whole run, 0 to 1; null while unknown."""
    seed: int
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    seconds: float | None
    """How long it took; null until it has succeeded."""
    unchanged: bool
    """True if all results were reused from an earlier run."""
    notice: str
    """A note for people; may be empty."""
    results: tuple[ResultReport, ...]
    outputs: tuple[JsonValue, ...]
    """Text and data of the last step that were not saved to a file."""
    error: ErrorBody | None
    """Why it failed."""

    @property
    def over(self) -> bool:
        """True if the run has ended."""
        return self.state in ("succeeded", "failed", "cancelled")


def result_id(run_id: str, number: int) -> str:
    """Returns the id of the run's result of this number, from 0."""
    return f"{run_id}-{number}"


def result_report(saved: ResultSaved, number: int, root_path: str) -> ResultReport:
    """Returns the result of this number in its run."""
    named = result_id(saved.run_id, number)
    address = f"{root_path}/v1/results/{named}"
    return ResultReport(
        id=named,
        url=address,
        record_url=f"{address}/record",
        name=Path(saved.path).name,
        content_type=saved.content_type,
        width=saved.width,
        height=saved.height,
        seed=saved.seed,
        index=saved.index,
        step=saved.step,
        final=saved.final,
        text=saved.text,
    )


def run_report(info: RunInfo, events: Iterable[RunEvent], root_path: str) -> RunReport:
    """Returns the run after these events, all of its log so far."""
    view = RunView(run_id=info.run_id)
    for event in events:
        view = advance(view, event)
    return RunReport(
        **info.model_dump(include={"run_id", "workflow", "title", "phase", "seed", "submitted_at",
                                   "started_at", "ended_at"}),
        state=view.outcome or info.state,
        status=view.status,
        progress=view.fraction,
        seconds=view.timings.total_s if view.timings else None,
        unchanged=view.unchanged,
        notice=view.notice,
        results=tuple(
            result_report(saved, number, root_path) for number, saved in enumerate(view.results)
        ),
        outputs=view.outputs,
        error=error_body(view.error, info.run_id) if view.error else None,
    )  # fmt: skip
