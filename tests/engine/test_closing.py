"""Closing: in time, with no caller left waiting and no process left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from pydantic import JsonValue

from app.errors import EngineClosed, WorkerDied
from app.protocol import RunCancelled
from tests.engine.bench import PATIENCE_S, Bench


def closed_within(bench: Bench, limit_s: float, timeout_s: float) -> None:
    """Closes with a timeout; fails if it takes the limit, or leaves a worker."""
    pid, began_at = bench.pid, time.monotonic()
    bench.engine.close(timeout_s)
    assert time.monotonic() - began_at < limit_s
    assert not psutil.pid_exists(pid)


def test_close_ends_idle_worker(own: Bench):
    own.run()
    closed_within(own, 10.0, timeout_s=20.0)
    assert own.heard.kinds == ["start_run", "shut_down"]


def test_close_is_idempotent(own: Bench):
    own.engine.close()
    own.engine.close()


def test_close_does_not_wait_for_starting_worker(unstarted: Bench):
    bench = unstarted.start(f"wait for {unstarted.gate()}")
    bench.submit()
    closed_within(bench, 10.0, timeout_s=20.0)


def test_close_cancels_all_runs_and_notifies_followers(own: Bench):
    running = own.underway(f"wait for {own.gate()}")
    waiting = own.submit()
    with ThreadPoolExecutor() as pool:
        following = [own.engine.events(run_id) for run_id in (running, waiting)]
        for events in following:
            next(events)
        ends = [pool.submit(list, events) for events in following]
        closed_within(own, 10.0, timeout_s=20.0)
        last = [end.result()[-1] for end in ends]
    assert all(isinstance(event, RunCancelled) for event in last)
    assert [event.notice for event in last] == ["The workbench was stopped."] * 2


@pytest.mark.parametrize(
    "script",
    [("ignore cancel", "wait for {gate}"), ("when shut down wait for {gate}",)],
    ids=["in a run", "while it ends"],
)
def test_close_kills_unresponsive_worker_in_time(own: Bench, script: tuple[str, ...]):
    run_id = own.underway(*(line.format(gate=own.gate()) for line in script))
    events = own.engine.events(run_id)
    next(events)
    closed_within(own, 2.0, timeout_s=2.0)
    *_, last = events
    assert last.type in ("run_cancelled", "run_succeeded")


def test_close_fails_pending_requests_to_free(own: Bench):
    own.run(f"when freed wait for {own.gate()}")
    with ThreadPoolExecutor() as pool:
        freed = pool.submit(own.engine.free)
        own.heard.wait_until(lambda: "free_memory" in own.heard.kinds)
        closed_within(own, 1.5, timeout_s=1.5)
        with pytest.raises(WorkerDied):
            freed.result()


def test_concurrent_closes_all_return(own: Bench):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _number: own.engine.close(), range(4)))


class SlowInputs(Mapping[str, JsonValue]):
    """Inputs whose check takes as long as a test likes."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __getitem__(self, name: str) -> JsonValue:
        self.begun.set()
        assert self.go_on.wait(PATIENCE_S)
        return {"prompt": "nothing"}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["prompt"])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("when", ["while it closes", "when it is closed"])
def test_run_submitted_during_close_is_refused(own: Bench, when: str):
    gate, inputs = own.gate(), SlowInputs()
    own.run(f"when shut down wait for {gate}")
    with ThreadPoolExecutor() as pool:
        submitted = pool.submit(own.engine.submit, own.workflow, inputs)
        assert inputs.begun.wait(PATIENCE_S)
        closed = pool.submit(own.engine.close, 20.0)
        own.heard.wait_until(lambda: "shut_down" in own.heard.kinds)
        if when == "when it is closed":
            gate.touch()
            closed.result()
        inputs.go_on.set()
        with pytest.raises(EngineClosed):
            submitted.result()
        gate.touch()
