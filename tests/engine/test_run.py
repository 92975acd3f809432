"""The state of a run, derived from its event log."""

from __future__ import annotations

import pytest

from app.dialect.plan import Plan
from app.engine.run import Follower, Run
from app.errors import ErrorReport
from app.protocol import (
    FetchingMedia,
    PhaseChanged,
    Preview,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunQueued,
    RunStarted,
    RunSucceeded,
    TerminalEvent,
    Timings,
)

ID = "20260101-000000-abcdef"
QUEUED = RunQueued(run_id=ID, time=1.0, position=0)
STARTED = RunStarted(run_id=ID, time=2.0, steps=("draw",))
DENOISING = PhaseChanged(run_id=ID, time=3.0, step="draw", phase="denoising")
SUCCEEDED = RunSucceeded(run_id=ID, time=9.0, timings=Timings(total_s=7.0), loaded=())
FAILED = RunFailed(run_id=ID, time=9.0, error=ErrorReport(kind="StepError", message="No."))
CANCELLED = RunCancelled(run_id=ID, time=9.0, phase="denoising")
PREVIEW = Preview(run_id=ID, time=4.0, jpeg=b"old", width=8, height=8)

PLAN = Plan(
    workflow_id="Draws shapes",
    workflow_path="/somewhere/text-to-image.json",
    workflow_hash="",
    document={},
    inputs={},
    seed=7,
    seed_given=True,
    steps=(),
)


def a_run(*events: RunEvent) -> Run:
    run = Run(ID, "anna", PLAN, request_key=None, fresh=False)
    for event in events:
        run.append(event)
    return run


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((), "ready"),
        ((QUEUED,), "ready"),
        ((QUEUED, STARTED, DENOISING, QUEUED), "ready"),
        ((QUEUED, STARTED), "running"),
        ((QUEUED, STARTED, DENOISING), "running"),
        ((QUEUED, STARTED, SUCCEEDED), "succeeded"),
        ((QUEUED, STARTED, FAILED), "failed"),
        ((QUEUED, FAILED), "failed"),
        ((QUEUED, CANCELLED), "cancelled"),
    ],
)
def test_run_state_follows_log(events: tuple[RunEvent, ...], state: str):
    assert a_run(*events).state == state


@pytest.mark.parametrize("terminal", [SUCCEEDED, FAILED, CANCELLED])
def test_run_is_over_with_its_terminal_event(terminal: TerminalEvent):
    run = a_run(QUEUED, STARTED)
    assert not run.over
    run.append(terminal)
    assert run.over


def test_run_with_files_missing_is_queued_then_preparing():
    run = Run(ID, "anna", PLAN, request_key=None, fresh=False, prepared=False)
    run.append(QUEUED)
    assert (run.state, run.phase) == ("queued", "queued")
    run.stage = "preparing"
    run.append(PhaseChanged(run_id=ID, time=2.0, step="", phase="preparing"))
    assert (run.state, run.phase) == ("preparing", "preparing")
    run.append(FetchingMedia(
        run_id=ID, time=2.0, url="https://a.b/c", number=1, count=1, fetched_bytes=0,
        total_bytes=None,
    ))  # fmt: skip
    assert run.phase == "fetching"


def test_run_phase_is_the_last_reported():
    assert a_run(QUEUED, STARTED).phase == "queued"
    saving = DENOISING.model_copy(update={"phase": "saving"})
    assert a_run(QUEUED, STARTED, DENOISING, saving, SUCCEEDED).phase == "saving"


def test_previews_are_not_logged_and_only_newest_is_kept():
    newest = PREVIEW.model_copy(update={"jpeg": b"new"})
    run = a_run(QUEUED, STARTED, PREVIEW, newest)
    assert run.events == [QUEUED, STARTED]
    assert run.preview == newest


def test_ended_run_keeps_no_preview():
    assert a_run(QUEUED, STARTED, PREVIEW, SUCCEEDED).preview is None


def test_followers_are_woken_by_events_and_previews():
    run, woken = a_run(QUEUED), []
    run.followers = {
        Follower(lambda: woken.append("anna"), previews=False),
        Follower(lambda: woken.append("ben"), previews=True),
    }
    run.append(STARTED)
    run.append(PREVIEW)
    assert sorted(woken) == ["anna", "anna", "ben", "ben"]


def test_run_is_watched_while_a_follower_wants_previews():
    run = a_run(QUEUED)
    assert not run.watched
    run.followers.add(Follower(lambda: None, previews=False))
    assert not run.watched
    run.followers.add(watcher := Follower(lambda: None, previews=True))
    assert run.watched
    run.followers.remove(watcher)
    assert not run.watched


def test_run_info_omits_the_owner():
    info = a_run(QUEUED, STARTED, DENOISING).info()
    assert (info.run_id, info.seed) == (ID, 7)
    assert "anna" not in info.model_dump_json()
    assert (info.workflow, info.title) == ("text-to-image", "Draws shapes")
    assert (info.state, info.phase) == ("running", "denoising")
    assert (info.started_at, info.ended_at) == (2.0, None)
    assert a_run(QUEUED, STARTED, SUCCEEDED).info().ended_at == 9.0


def test_unstarted_run_has_end_but_no_start():
    info = a_run(QUEUED, CANCELLED).info()
    assert (info.started_at, info.ended_at) == (None, 9.0)
