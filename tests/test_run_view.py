"""The view of a run, event by event."""

from __future__ import annotations

import functools
import time

import pytest

from app.errors import ErrorReport
from app.protocol import (
    Downloading,
    Loading,
    MemoryRanOut,
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
from app.run_view import RunView, advance
from app.ui.markup import NO_PREVIEW, stage, status
from app.units import byte_progress, duration, size

RUN = {"run_id": "20260101-000000-abcdef", "time": 1.0}


def after(*events: RunEvent) -> RunView:
    return functools.reduce(advance, events, RunView())


def result(path: str = "/runs/a.png", *, final: bool = True) -> ResultSaved:
    return ResultSaved(
        **RUN,
        step="draw",
        path=path,
        sidecar=f"{path}.json",
        content_type="image/png",
        seed=7,
        index=0,
        final=final,
    )


def preview(jpeg: bytes = b"jpeg") -> Preview:
    return Preview(**RUN, jpeg=jpeg, width=8, height=8)


def test_stage_reports_missing_preview():
    def step(done: int, **told: bool) -> StepProgress:
        return StepProgress(**RUN, step="draw", done=done, total=2, seconds_left=None, **told)

    drawing = after(*started(("draw", "again")), step(1, without_preview=True))
    assert NO_PREVIEW in stage(drawing)
    assert NO_PREVIEW not in stage(after(*started(), step(1)))
    next_step = StepStarted(**RUN, step="again", index=1, count=2)
    assert NO_PREVIEW not in stage(advance(drawing, next_step))


def started(steps: tuple[str, ...] = ("draw",), index: int = 0) -> tuple[RunEvent, ...]:
    return (
        RunStarted(**RUN, steps=steps),
        StepStarted(**RUN, step=steps[index], index=index, count=len(steps)),
    )


def test_waiting_run_shows_position():
    assert after(RunQueued(**RUN, position=2)).status == "Waiting · position 3"
    assert after(RunQueued(**RUN, position=0)).status == "Waiting · next in line"


def test_restart_notice_stays_during_run():
    view = after(RunQueued(**RUN, position=0, notice="It runs again."), *started())
    assert view.notice == "It runs again."
    assert "It runs again." in status(view)


def test_loading_shows_component_and_bytes():
    loading = Loading(
        **RUN,
        step="draw",
        component="unet",
        model="models/shapes",
        loaded_bytes=12_000_000,
        total_bytes=25_000_000,
    )
    assert after(*started(), loading).status == "Loading unet · 12 of 25 MB"


def test_download_shows_model_bytes_and_time_left():
    download = Downloading(
        **RUN,
        model="owner/name",
        done_bytes=1_200_000_000,
        total_bytes=6_900_000_000,
        seconds_left=180.2,
    )
    preparing = PhaseChanged(**RUN, step="", phase="preparing")
    view = after(RunQueued(**RUN, position=0), preparing)
    assert (view.status, view.fraction) == ("Preparing", None)
    assert advance(view, download).status == "Downloading owner/name · 1.2 of 6.9 GB · 3 min left"


RAN_OUT = MemoryRanOut(**RUN, step="draw", phase="decoding", done=("Run again with VAE tiling.",))


def test_out_of_memory_notice_stays_after_run():
    view = after(*started(), preview(), RAN_OUT)
    assert view.status == "Memory ran out · once more"
    assert view.notice == ("Memory ran out in step 'draw' (decoding). Run again with VAE tiling.")
    assert view.preview is None
    succeeded = RunSucceeded(
        **RUN, timings=Timings(total_s=1, load_s=0, compute_s=1, save_s=0), loaded=()
    )
    assert advance(view, succeeded).notice == view.notice


def test_notice_stays_after_cancel():
    cancelled = RunCancelled(**RUN, phase="decoding", notice="The worker was ended.")
    notice = after(*started(), RAN_OUT, cancelled).notice
    assert notice.startswith("Memory ran out")
    assert notice.endswith("VAE tiling. The worker was ended.")


def test_step_shows_number_and_time_left():
    progress = StepProgress(**RUN, step="draw", done=7, total=20, seconds_left=3.04)
    view = after(*started(), progress)
    assert view.status == "Step 7 of 20 · 3.0 s left"
    assert view.fraction == pytest.approx(0.445)


def test_step_without_pace_shows_no_time():
    progress = StepProgress(**RUN, step="draw", done=1, total=20, seconds_left=None)
    assert after(*started(), progress).status == "Step 1 of 20"


def test_workflow_of_two_steps_shows_current_step():
    view = after(
        *started(("draw", "restyle"), index=1),
        PhaseChanged(**RUN, step="restyle", phase="decoding"),
    )
    assert view.status == "Part 2 of 2 · Decoding"
    assert view.fraction == pytest.approx(0.95)


def test_progress_bar_never_goes_back():
    events = [
        *started(),
        PhaseChanged(**RUN, step="draw", phase="loading"),
        PhaseChanged(**RUN, step="draw", phase="encoding"),
        PhaseChanged(**RUN, step="draw", phase="denoising"),
        StepProgress(**RUN, step="draw", done=1, total=2, seconds_left=None),
        StepProgress(**RUN, step="draw", done=2, total=2, seconds_left=0),
        PhaseChanged(**RUN, step="draw", phase="decoding"),
        PhaseChanged(**RUN, step="draw", phase="saving"),
        RunSucceeded(**RUN, timings=Timings(total_s=1), loaded=()),
    ]
    fractions = [after(*events[: count + 1]).fraction or 0.0 for count in range(len(events))]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_only_the_newest_preview_is_kept():
    assert after(preview(b"old"), preview(b"new")).preview == b"new"


def test_result_replaces_preview():
    view = after(preview(), result())
    assert view.preview is None
    assert view.shown == result()
    assert view.seed == 7


def test_final_result_is_preferred_to_later_intermediate():
    first, second = result("/runs/final.png"), result("/runs/between.png", final=False)
    assert after(first, second).shown == first
    assert after(second).shown == second
    assert after().shown is None


def test_success_keeps_results_and_shows_time():
    view = after(
        *started(),
        result(),
        RunSucceeded(
            **RUN, timings=Timings(total_s=2.31, load_s=1), loaded=("unet",), outputs=("a text",)
        ),
    )
    assert (view.outcome, view.status) == ("succeeded", "Done in 2.3 s")
    assert view.results == (result(),)
    assert (view.loaded, view.outputs) == (("unet",), ("a text",))
    assert view.over


def succeeded(at: str, made: str | None = None) -> RunSucceeded:
    made_at = None if made is None else local(made)
    return RunSucceeded(
        run_id=RUN["run_id"],
        time=local(at),
        timings=Timings(total_s=0.41),
        loaded=(),
        made_at=made_at,
    )


def local(moment: str) -> float:
    return time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M"))


@pytest.mark.parametrize(
    ("at", "made"),
    [("2026-11-24 14:05", "14:02"), ("2026-11-25 00:01", "24 Nov 14:02"),
     ("2027-11-24 14:05", "24 Nov 14:02")],
)  # fmt: skip
def test_unchanged_result_shows_time_and_seed(at: str, made: str):
    view = after(*started(), result(), succeeded(at, made="2026-11-24 14:02"))
    assert view.status == f"Unchanged: from {made}, seed 7"
    assert view.unchanged


def test_unchanged_run_without_files_shows_no_seed():
    view = after(*started(), succeeded("2026-11-24 14:05", made="2026-11-24 14:02"))
    assert view.status == "Unchanged: from 14:02"


def test_cached_steps_are_counted():
    steps = ("draw", "restyle")
    remembered = StepRemembered(
        run_id=RUN["run_id"],
        time=local("2026-11-24 14:05"),
        step="draw",
        made_by="20261124-140200-abcdef",
        made_at=local("2026-11-24 14:02"),
    )
    view = after(*started(steps), remembered)
    assert view.status == "Part 1 of 2 · Remembered from 14:02"
    begun = StepStarted(**RUN, step="restyle", index=1, count=2)
    view = functools.reduce(advance, [begun, result(), succeeded("2026-11-24 14:05")], view)
    assert view.status == "Done in 0.4 s · 1 of 2 parts remembered"
    assert not view.unchanged


def test_failure_shows_sentence_as_plain_text():
    error = ErrorReport(kind="OutOfMemory", message="The device is full.", hint="Free it.")
    view = after(*started(), preview(), RunFailed(**RUN, error=error))
    assert (view.outcome, view.error, view.preview) == ("failed", error, None)


def test_cancelled_run_shows_phase_and_notice():
    cancelled = RunCancelled(**RUN, phase="decoding", notice="The worker had to be ended.")
    view = after(*started(), preview(), cancelled)
    assert view.status == "Cancelled while decoding"
    assert (view.notice, view.preview) == ("The worker had to be ended.", None)


def test_late_preview_does_not_change_outcome():
    view = after(*started(), RunCancelled(**RUN, phase="denoising"), preview())
    assert view.outcome == "cancelled"
    assert view.preview is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (3.04, "3.0 s"), (9.96, "10 s"), (59.6, "1 min"), (185, "3 min 5 s"),
     (7440, "2 h 4 min"), (7200, "2 h")],
)  # fmt: skip
def test_durations_are_readable(seconds: float, words: str):
    assert duration(seconds) == words


def test_sizes_are_decimal():
    assert [size(n) for n in (900, 25_400_000, 6_900_000_000)] == ["1 kB", "25 MB", "6.9 GB"]
    assert byte_progress(500_000, 20_000_000) == "0 of 20 MB"
    assert byte_progress(1_200_000_000, 6_900_000_000) == "1.2 of 6.9 GB"
    assert byte_progress(500, 12_000) == "0 of 12 kB"
