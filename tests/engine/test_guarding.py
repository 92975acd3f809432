"""Errors inside the engine's loop end one run at most, and never the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.dialect.plan import Plan
from app.engine.history import History
from app.engine.loop import EngineLoop
from app.engine.run import Follower, Run
from app.engine.runs import new_run_id
from app.engine.slots.local import starting
from app.engine.store import Store
from app.planning.planner import make_plan
from app.protocol import RunCancelled, RunFailed, RunSucceeded
from app.settings import EngineSettings, PathSettings
from tests.doubles.scripted_worker import LOOK_AGAIN_S, scripted_worker
from tests.engine.bench import PATIENCE_S, Heard, settings

Start = Callable[..., EngineLoop]


@pytest.fixture
def start(tmp_path: Path, heard: Heard) -> Iterator[Start]:
    """Starts a loop, which is closed at the end."""
    loops: list[EngineLoop] = []
    stores: list[Store] = []

    def started(kind: type[History] = History, **wrong: Any) -> EngineLoop:
        given = settings(tmp_path)
        engine = EngineSettings.model_construct(**{**given.engine.model_dump(), **wrong})
        history = kind(Store(tmp_path), given, resumable=False)
        changed = given.model_copy(update={"engine": engine})
        start_worker = starting(scripted_worker, tmp_path)
        loops.append(EngineLoop(changed, start_worker, history))
        stores.append(history.store)
        return loops[0]

    yield started
    for loop in loops:
        loop.post(partial(loop.begin_close, 2.0))
        loop.join()
    for store in stores:
        store.close()


@pytest.fixture
def plan(workflow: Path) -> Plan:
    return make_plan(workflow, {"prompt": "nothing"}, paths=PathSettings())


def submitted(loop: EngineLoop, plan: Plan, **how: Any) -> Run:
    run = Run(new_run_id(), "", plan, **{"request_key": None, "fresh": False, **how})
    loop.mailbox.ask(partial(loop.submit, run))
    return run


def ended(run: Run) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not run.over:
        assert time.monotonic() < until, run.events
        time.sleep(LOOK_AGAIN_S)
    return run.events[-1]


def test_unsendable_run_fails_alone(start: Start, plan: Plan):
    loop = start()
    unsendable = plan.model_copy(update={"inputs": {"prompt": "\ud800"}})
    bad, good = submitted(loop, unsendable), submitted(loop, plan)
    failed = ended(bad)
    assert isinstance(failed, RunFailed)
    assert failed.error.message.startswith("The engine could not continue the run: ")
    assert isinstance(ended(good), RunSucceeded)
    assert loop.status().worker == "ready"


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_raising_message_is_logged_and_the_next_handled(
    start: Start, plan: Plan, error: type[BaseException], caplog: pytest.LogCaptureFixture
):
    loop = start()

    def message() -> None:
        raise error("no")

    loop.post(message)
    assert isinstance(ended(submitted(loop, plan)), RunSucceeded)
    assert "The engine could not handle a message" in caplog.messages


def test_raising_deadline_does_not_stop_engine(start: Start, plan: Plan):
    loop = start(idle_cleanup_s="soon")
    for _ in range(2):
        assert isinstance(ended(submitted(loop, plan)), RunSucceeded)


class Unsayable(float):
    """A number of seconds that cannot be formatted."""

    def __format__(self, _spec: str) -> str:
        raise ValueError("unsayable")


def test_unmet_deadline_does_not_stop_engine(
    start: Start, plan: Plan, caplog: pytest.LogCaptureFixture
):
    loop = start(idle_drop_s=Unsayable(0.01))
    assert isinstance(ended(submitted(loop, plan)), RunSucceeded)
    until = time.monotonic() + PATIENCE_S
    while not any("unsayable" in str(record.exc_info) for record in caplog.records):
        assert time.monotonic() < until, "the deadline did not come"
        time.sleep(LOOK_AGAIN_S)
    assert isinstance(ended(submitted(loop, plan)), RunSucceeded)


def test_engine_answers_if_queue_cannot_advance(start: Start, plan: Plan):
    loop = start(max_preparing_runs="two")
    run = submitted(loop, plan)
    loop.mailbox.ask(partial(loop.cancel, run))
    assert isinstance(ended(run), RunCancelled)
    assert loop.mailbox.ask(lambda: loop.status().queue) == ()


class LosingHistory(History):
    """A history that cannot store the start of the first run."""

    lost = False

    def note_started(self, run: Run, started_at: float) -> None:
        if not self.lost:
            self.lost = True
            raise OSError("there is no room")
        super().note_started(run, started_at)


def test_unhandled_event_fails_its_run_only(start: Start, plan: Plan):
    loop = start(LosingHistory)
    bad, good = submitted(loop, plan), submitted(loop, plan)
    failed = ended(bad)
    assert isinstance(failed, RunFailed)
    assert failed.error.message == "The engine could not continue the run: there is no room"
    assert isinstance(ended(good), RunSucceeded)


def test_request_cache_error_does_not_affect_run(start: Start, plan: Plan):
    loop = start()
    run = submitted(loop, plan, request_key="no\0file", fresh=True)
    assert isinstance(ended(run), RunSucceeded)
    pid = loop.status().pid
    assert isinstance(ended(submitted(loop, plan)), RunSucceeded)
    assert loop.status().pid == pid


def test_raising_follower_is_removed(start: Start, plan: Plan, caplog: pytest.LogCaptureFixture):
    loop, woken = start(), []

    def wake() -> None:
        woken.append(1)
        raise RuntimeError("gone")

    run = submitted(loop, plan)
    loop.post(partial(loop.add_follower, run, Follower(wake, previews=False)))
    assert isinstance(ended(run), RunSucceeded)
    loop.mailbox.ask(lambda: None)
    assert len(woken) == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_taken_run_id_is_replaced(start: Start, plan: Plan, tmp_path: Path):
    loop = start()
    first = submitted(loop, plan)
    (tmp_path / "a-folder-of-before").mkdir()
    for taken in (first.run_id, "a-folder-of-before"):
        run = Run(taken, "", plan, request_key=None, fresh=False)
        loop.mailbox.ask(partial(loop.submit, run))
        assert run.run_id != taken
        assert isinstance(ended(run), RunSucceeded)
    assert loop.run(first.run_id) is first
