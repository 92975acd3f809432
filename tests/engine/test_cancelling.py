"""Cancels: at once in the queue, soon in the worker, by force if ignored."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import pytest

from app.engine.slots import slot
from app.protocol import CancelRun, PhaseChanged, RunCancelled, RunSucceeded
from tests.engine.bench import Bench
from tests.engines import Finished


def cancelled(run: Finished) -> RunCancelled:
    assert isinstance(run.terminal, RunCancelled), run.terminal
    return run.terminal


def test_waiting_run_is_cancelled_at_once(bench: Bench):
    gate = bench.gate()
    running = bench.underway(f"wait for {gate}")
    waiting = bench.submit()
    assert bench.engine.cancel(waiting)
    ended = cancelled(bench.finish(waiting))
    assert (ended.phase, ended.notice) == ("queued", "")
    gate.touch()
    assert bench.finish(running).success
    assert bench.heard.kinds == ["start_run"]


def test_active_run_is_cancelled_at_next_cancel_point(bench: Bench):
    run_id = bench.submit("enter denoising", f"wait for {bench.gate()}")
    bench.until(run_id, PhaseChanged)
    assert bench.engine.cancel(run_id)
    ended = cancelled(bench.finish(run_id))
    assert (ended.phase, ended.notice) == ("denoising", "")


def test_worker_survives_a_cancel(bench: Bench):
    run_id = bench.underway(f"wait for {bench.gate()}")
    pid = bench.pid
    bench.engine.cancel(run_id)
    bench.finish(run_id)
    assert bench.run().success
    assert bench.pid == pid


def test_run_with_previews_can_be_cancelled(bench: Bench):
    run_id = bench.submit("previews")
    for event in bench.engine.events(run_id, previews=True):
        if event.type == "preview":
            bench.engine.cancel(run_id)
    assert cancelled(bench.finish(run_id)).notice == ""


def test_cancel_is_idempotent(bench: Bench):
    gate = bench.gate()
    run_id = bench.underway("ignore cancel", f"wait for {gate}")
    assert [bench.engine.cancel(run_id) for _ in range(3)] == [True] * 3
    gate.touch()
    bench.finish(run_id)
    assert bench.heard.commands[1:] == [CancelRun(run_id=run_id)]


def test_late_cancel_is_refused_and_does_not_affect_next_run(bench: Bench):
    gate = bench.gate()
    first = bench.run().run_id
    second = bench.underway(f"wait for {gate}")
    assert not bench.engine.cancel(first)
    gate.touch()
    assert bench.finish(second).success
    assert bench.heard.kinds == ["start_run"] * 2


def test_run_that_succeeds_before_cancel_has_succeeded(bench: Bench):
    gate = bench.gate()
    first = bench.underway("ignore cancel", f"wait for {gate}")
    second = bench.submit()
    bench.engine.cancel(first)
    gate.touch()
    assert bench.finish(first).success
    assert bench.finish(second).success
    assert not bench.engine.cancel(first)


# --- a worker that does not hear -----------------------------------------------------------------


def test_worker_that_ignores_cancel_is_replaced(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.2)
    run_id = bench.submit("ignore cancel", "enter decoding", f"wait for {bench.gate()}")
    bench.until(run_id, PhaseChanged)
    waiting, pid = bench.submit(), bench.pid
    asked_at = time.time()
    bench.engine.cancel(run_id)
    ended = cancelled(bench.finish(run_id))
    assert ended.time - asked_at >= 0.2
    assert ended.phase == "decoding"
    assert "did not stop within" in ended.notice
    assert "loaded again" in ended.notice
    assert bench.finish(waiting).success
    assert bench.pid != pid


def test_worker_that_floods_events_is_killed_after_cancel(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.2)
    run_id = bench.underway("flood")
    asked_at = time.time()
    bench.engine.cancel(run_id)
    assert cancelled(bench.finish(run_id)).time - asked_at < 5


def test_cancel_grace_is_three_times_the_longest_gap(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.05)
    bench.run("gap 0.3", "gap 0.1")
    gate = bench.gate()
    run_id = bench.underway("ignore cancel", f"wait for {gate}")
    asked_at = time.time()
    bench.engine.cancel(run_id)
    assert cancelled(bench.finish(run_id)).time - asked_at >= 0.9


class AtTheKill(logging.Handler):
    """Lets the run end at the moment the engine kills its worker."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._gate, self._over = bench.gate(), bench.gate("over")
        os.mkfifo(self._over)

    def emit(self, record: logging.LogRecord) -> None:
        if "did not stop within" in record.getMessage():
            self._gate.touch()
            self._over.read_bytes()


@pytest.fixture
def at_the_kill(unstarted: Bench) -> Iterator[AtTheKill]:
    handler = AtTheKill(unstarted)
    logging.getLogger(slot.__name__).addHandler(handler)
    yield handler
    logging.getLogger(slot.__name__).removeHandler(handler)


@pytest.mark.usefixtures("at_the_kill")
def test_run_is_not_sent_to_a_dying_worker(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.1)
    first = bench.underway(
        "ignore cancel", f"when over leave {bench.gate('over')}", f"wait for {bench.gate()}"
    )
    second = bench.submit()
    bench.engine.cancel(first)
    assert isinstance(bench.finish(first).terminal, RunSucceeded)
    assert bench.finish(second).success
