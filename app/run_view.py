"""The view of one run: frozen, with `advance(view, event)` for the next one.

Pure: no clock, no files. The page and the shell render a view; they decide nothing themselves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import JsonValue

from app.errors import ErrorReport
from app.protocol import (
    Downloading,
    FetchingMedia,
    Loading,
    MemoryFreed,
    MemoryRanOut,
    Noticed,
    Phase,
    PhaseChanged,
    Preview,
    ResultSaved,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunQueued,
    RunStarted,
    RunSucceeded,
    StepProgress,
    StepRemembered,
    StepStarted,
    Timings,
)
from app.units import byte_progress, duration, size

NAMED_WHEN_FREED = 3
"""Number of components named when memory was freed; the others are counted."""

Outcome = Literal["succeeded", "failed", "cancelled"]

PHASE_WORDS: dict[Phase, str] = {
    "queued": "Waiting",
    "fetching": "Fetching",
    "preparing": "Preparing",
    "loading": "Loading",
    "encoding": "Reading the prompt",
    "denoising": "Drawing",
    "decoding": "Decoding",
    "computing": "Computing",
    "saving": "Saving",
}

# The fraction of a step's bar at which each phase begins; denoising grows from there.
_PHASE_FRACTIONS: dict[Phase, float] = {
    "queued": 0.0,
    "fetching": 0.0,
    "preparing": 0.0,
    "loading": 0.0,
    "encoding": 0.15,
    "denoising": 0.2,
    "decoding": 0.9,
    "computing": 0.2,
    "saving": 0.97,
}


@dataclass(frozen=True)
class RunView:
    """Everything shown of one run, ready to print."""

    run_id: str = ""
    status: str = "Waiting"
    """One line: the phase, with its numbers."""
    fraction: float | None = None
    """Progress of the whole run, 0 to 1; None while unknown."""
    preview: bytes | None = None
    """The newest preview as JPEG; None once the run has a result."""
    without_preview: bool = False
    """True if the current step has no preview."""
    results: tuple[ResultSaved, ...] = ()
    seed: int | None = None
    timings: Timings | None = None
    loaded: tuple[str, ...] = ()
    outputs: tuple[JsonValue, ...] = ()
    outcome: Outcome | None = None
    """None until the run has ended."""
    notice: str = ""
    """A message beside the outcome."""
    error: ErrorReport | None = None
    step: int = 0
    steps: int = 1
    remembered: int = 0
    """Number of steps that reused an earlier result."""
    unchanged: bool = False
    """True if all results were reused from an earlier run."""

    @property
    def over(self) -> bool:
        """True if the run has ended."""
        return self.outcome is not None

    @property
    def shown(self) -> ResultSaved | None:
        """The result for the stage: the newest final one, else the newest of all."""
        finals = [result for result in self.results if result.final]
        shown = finals or self.results
        return shown[-1] if shown else None


def advance(view: RunView, event: RunEvent) -> RunView:
    """Returns the view after this event of the run; events come in the order of the run's log."""
    match event:
        case RunQueued():
            return replace(
                view,
                run_id=event.run_id,
                status=_waiting(event.position),
                notice=event.notice or view.notice,
            )
        case FetchingMedia():
            return replace(view, run_id=event.run_id, status=_fetching(event))
        case RunStarted():
            return replace(
                view,
                run_id=event.run_id,
                status="Starting",
                fraction=0.0,
                steps=max(1, len(event.steps)),
            )
        case StepStarted():
            view = replace(view, step=event.index, steps=max(1, event.count))
            return replace(
                view,
                status=_of_step(view, "Starting"),
                fraction=_overall(view, 0.0),
                without_preview=False,
            )
        case StepRemembered():
            made = _moment(event.made_at, event.time)
            status = _of_step(view, f"Remembered from {made}")
            return replace(view, status=status, remembered=view.remembered + 1)
        case Downloading():
            amount = byte_progress(event.done_bytes, event.total_bytes)
            status = f"Downloading {event.model} · {amount}{_left(event.seconds_left)}"
            return replace(view, run_id=event.run_id, status=status)
        case Loading():
            part = event.loaded_bytes / event.total_bytes if event.total_bytes else 0.0
            amount = byte_progress(event.loaded_bytes, event.total_bytes)
            return replace(
                view,
                status=_of_step(view, f"Loading {event.component} · {amount}"),
                fraction=_overall(view, 0.15 * min(1.0, part)),
            )
        case PhaseChanged(phase="preparing"):
            return replace(view, run_id=event.run_id, status=PHASE_WORDS[event.phase])
        case PhaseChanged():
            return replace(
                view,
                status=_of_step(view, PHASE_WORDS[event.phase]),
                fraction=_overall(view, _PHASE_FRACTIONS[event.phase]),
            )
        case MemoryRanOut():
            return replace(
                view,
                status=_of_step(view, "Memory ran out · once more"),
                preview=None,
                notice=f"{view.notice} {event.sentence}".strip(),
            )
        case Noticed():
            return replace(view, notice=f"{view.notice} {event.sentence}".strip())
        case StepProgress():
            done, doing = event.done / max(1, event.total), f"Step {event.done} of {event.total}"
            if event.segment and event.segments:
                done = (event.segment - 1 + done) / event.segments
                doing = f"Segment {event.segment} of {event.segments} · {doing}"
            return replace(
                view,
                status=_of_step(view, f"{doing}{_left(event.seconds_left)}"),
                fraction=_overall(view, 0.2 + 0.7 * done),
                without_preview=event.without_preview,
            )
        case Preview():
            return view if view.over else replace(view, preview=event.jpeg)
        case ResultSaved():
            results = (*view.results, event)
            return replace(view, results=results, seed=event.seed, preview=None)
        case RunSucceeded():
            return replace(
                view,
                outcome="succeeded",
                status=_done(view, event),
                unchanged=event.made_at is not None,
                fraction=1.0,
                preview=None,
                timings=event.timings,
                loaded=event.loaded,
                outputs=event.outputs,
            )
        case RunFailed():
            view = replace(view, fraction=None, preview=None)
            return replace(view, outcome="failed", status="Failed", error=event.error)
        case RunCancelled():
            return replace(
                view,
                outcome="cancelled",
                status=f"Cancelled while {_CANCELLED_IN[event.phase]}",
                fraction=None,
                preview=None,
                notice=f"{view.notice} {event.notice}".strip(),
            )
        case _:
            return view


_CANCELLED_IN: dict[Phase, str] = {
    "queued": "it was waiting",
    "fetching": "fetching its media",
    "preparing": "fetching its models",
    "loading": "loading",
    "encoding": "reading the prompt",
    "denoising": "drawing",
    "decoding": "decoding",
    "computing": "computing",
    "saving": "saving",
}


def freed(report: MemoryFreed) -> str:
    """Returns what Free GPU evicted, as a sentence."""
    if not report.dropped:
        return "Nothing was held; there was nothing to free."
    weights = sum(item.weight_bytes for item in report.dropped)
    heavy = sorted(report.dropped, key=lambda item: -item.weight_bytes)[:NAMED_WHEN_FREED]
    more = len(report.dropped) - len(heavy)
    titles = ", ".join(item.title for item in heavy) + (f" and {more} more" if more else "")
    before, after = report.before, report.after
    device = ""
    if before.device_bytes:
        device = (
            f" Device memory {size(before.device_bytes)} → {size(after.device_bytes)} in use,"
            f" {size(before.device_reserved_bytes)} → {size(after.device_reserved_bytes)} reserved,"
            f" {size(before.device_driver_bytes)} → {size(after.device_driver_bytes)} by the"
            " driver's account."
        )
    return (
        f"Freed {size(weights)}: {titles}.{device} "
        f"Worker memory {size(before.anonymous_bytes)} → {size(after.anonymous_bytes)},"
        f" in {duration(report.seconds)}."
    )


def _done(view: RunView, event: RunSucceeded) -> str:
    if event.made_at is not None:
        seed = "" if view.seed is None else f", seed {view.seed}"
        return f"Unchanged: from {_moment(event.made_at, event.time)}{seed}"
    remembered = f" · {view.remembered} of {view.steps} parts remembered" if view.remembered else ""
    return f"Done in {duration(event.timings.total_s)}{remembered}"


def _moment(then: float, now: float) -> str:
    """Formats a time of today as `14:02`, any other as `12 Nov 14:02`; both in Unix seconds."""
    at, today = time.localtime(then), time.localtime(now)
    same_day = (at.tm_year, at.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same_day else "%d %b %H:%M", at)


def _waiting(position: int) -> str:
    return f"Waiting · position {position + 1}" if position else "Waiting · next in line"


def _fetching(event: FetchingMedia) -> str:
    name = event.url.partition("?")[0].rstrip("/").rpartition("/")[2]
    count = f" ({event.number} of {event.count})" if event.count > 1 else ""
    if event.total_bytes:
        amount = f" · {byte_progress(event.fetched_bytes, event.total_bytes)}"
    else:
        amount = f" · {size(event.fetched_bytes)}" if event.fetched_bytes else ""
    return f"Fetching {name[:60]}{count}{amount}"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f" · {duration(seconds)} left"


def _of_step(view: RunView, words: str) -> str:
    """Prefixes the step's number if the workflow has several steps."""
    return f"Part {view.step + 1} of {view.steps} · {words}" if view.steps > 1 else words


def _overall(view: RunView, part: float) -> float:
    return (view.step + part) / view.steps
