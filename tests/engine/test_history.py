"""Runs outlive the engine: a later one resumes them, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine import Engine
from app.engine.history import ABANDONED, AGAIN, TWICE, WAITED, History
from app.engine.run import Run
from app.engine.store import Store
from app.errors import UnknownRun
from app.planning.planner import make_plan
from app.protocol import RunCancelled, RunFailed, RunQueued, RunStarted, RunSucceeded
from tests.doubles.scripted_worker import scripted_worker
from tests.engine.bench import Bench, Heard, serving, settings


def test_stopped_engine_runs_resume_in_order(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    with serving(tmp_path, workflow, uploads, heard) as bench:
        active = bench.underway(f"wait for {bench.gate()}")
        waiting = [bench.submit("nothing"), bench.submit("nothing")]
    bench.gate().touch()
    with serving(tmp_path, workflow, uploads, heard) as bench:
        finished = [bench.finish(run_id) for run_id in (active, *waiting)]
        begun = [info.started_at or 0 for info in reversed(bench.engine.runs())]
    assert all(run.success for run in finished)
    assert begun == sorted(begun)
    first = [run.events[0] for run in finished]
    assert [event.notice for event in first if isinstance(event, RunQueued)] == [WAITED] * 3


def test_cancelled_run_is_not_resumed(tmp_path: Path, workflow: Path, uploads: Path, heard: Heard):
    with serving(tmp_path, workflow, uploads, heard) as bench:
        bench.underway(f"wait for {bench.gate()}")
        cancelled = bench.submit("nothing")
        bench.engine.cancel(cancelled)
        assert isinstance(bench.finish(cancelled).terminal, RunCancelled)
    bench.gate().touch()
    with serving(tmp_path, workflow, uploads, heard) as bench:
        states = {info.run_id: info.state for info in bench.engine.runs()}
    assert states[cancelled] == "cancelled"


def left_behind(store: Store, workflow: Path, run_id: str, *, process: str = "", attempts: int = 0):
    """Returns a run in the history as a killed process leaves it."""
    plan = make_plan(workflow, {"prompt": "nothing"}, paths=settings(workflow.parent).paths, seed=5)
    history = History(store, settings(workflow.parent), resumable=not process)
    if process:
        history.__dict__["_process"] = process
    history.note_asked(Run(run_id, "me", plan, request_key=None, fresh=False)).result()
    for _ in range(attempts):
        store.note_started(run_id, 5.0)
    store.flush()


def test_runs_of_killed_server_are_attempted_twice_at_most(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    store = Store(tmp_path / "outputs")
    left_behind(store, workflow, "20260101-000000-aaaaaa", attempts=1)
    left_behind(store, workflow, "20260101-000001-bbbbbb", attempts=2)
    left_behind(store, workflow, "20260101-000002-cccccc")
    store.close()
    with serving(tmp_path, workflow, uploads, heard) as bench:
        again = bench.finish("20260101-000000-aaaaaa")
        twice = bench.finish("20260101-000001-bbbbbb")
        waited = bench.finish("20260101-000002-cccccc")
    assert isinstance(again.events[0], RunQueued)
    assert again.events[0].notice == AGAIN
    assert again.success
    assert isinstance(twice.terminal, RunFailed)
    assert twice.terminal.error.message == TWICE
    assert waited.success


def test_results_of_interrupted_attempt_are_removed(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    store = Store(tmp_path / "outputs")
    left_behind(store, workflow, "20260101-000000-aaaaaa", attempts=1)
    store.close()
    # Saved, but the server was killed before it noted the end of the run.
    folder = tmp_path / "outputs" / "20260101-000000-aaaaaa"
    folder.mkdir()
    for name in ("draw.png", "draw.png.json"):
        (folder / name).write_bytes(b"{}")
    with serving(tmp_path, workflow, uploads, heard) as bench:
        assert bench.finish("20260101-000000-aaaaaa").success
    assert not folder.exists()


def test_waiting_run_counts_no_attempt(tmp_path: Path, workflow: Path, uploads: Path, heard: Heard):
    store = Store(tmp_path / "outputs")
    left_behind(store, workflow, "20260101-000000-aaaaaa", attempts=1)
    # As a server that is killed before it begins the run.
    store.note_state("20260101-000000-aaaaaa", "queued")
    store.close()
    with serving(tmp_path, workflow, uploads, heard) as bench:
        assert bench.finish("20260101-000000-aaaaaa").success


def test_runs_of_ended_command_are_cancelled(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    store = Store(tmp_path / "outputs", as_keeper=False)
    left_behind(store, workflow, "20260101-000000-aaaaaa", process="1 0.5", attempts=1)
    living = Engine(scripted_worker)
    living.start(settings(tmp_path / "outputs"))
    beside = Bench(living, workflow, tmp_path / "outputs", tmp_path, heard)
    run_id = beside.underway(f"wait for {beside.gate()}")
    with serving(tmp_path, workflow, uploads, heard) as bench:
        ended = bench.finish("20260101-000000-aaaaaa").terminal
        assert {info.run_id: info.state for info in bench.engine.runs()}[run_id] == "running"
        beside.gate().touch()
        assert beside.finish(run_id).success
    living.close()
    store.close()
    assert isinstance(ended, RunCancelled)
    assert ended.notice == ABANDONED


def test_past_run_can_be_followed_by_id(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    with serving(tmp_path, workflow, uploads, heard) as bench:
        before = bench.run("nothing", owner="me")
    with serving(tmp_path, workflow, uploads, heard) as bench:
        after = bench.finish(before.run_id)
        (mine,) = bench.engine.runs(owner="me")
        told = bench.engine.info(before.run_id)
        assert bench.engine.runs(owner="you") == []
        assert [info.run_id for info in bench.engine.runs(words="noth")] == [before.run_id]
        with pytest.raises(UnknownRun):
            bench.finish("20260101-000000-ffffff")
    assert after.terminal == before.terminal
    assert [type(event) for event in after.events] == [RunQueued, RunStarted, RunSucceeded]
    assert (mine.state, mine.workflow) == ("succeeded", "text-to-image")
    assert told == mine


def test_engine_without_history_writes_none(tmp_path: Path, workflow: Path, heard: Heard):
    engine = Engine(scripted_worker)
    bench = Bench(engine, workflow, tmp_path, tmp_path, heard)
    bench.start(keep_history=False)
    run_id = bench.run("nothing").run_id
    listed = [info.run_id for info in engine.runs()]
    engine.close()
    assert listed == [run_id]
    assert not (tmp_path / ".history").exists()
