"""Hanging workers: no caller waits longer than the limits, and no run is lost."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.errors import WorkerDied
from app.protocol import RunCancelled, RunFailed
from tests.engine.bench import PATIENCE_S, Bench

PROMPT = "/steps/0/pipeline/arguments/prompt"
MORE_THAN_A_PIPE_HOLDS: Any = ["a" * 1000] * 400
NEVER_S = 3600.0


def submit_large(bench: Bench) -> str:
    """Submits a run whose command is too large for a pipe that nobody reads."""
    return bench.engine.submit(
        bench.workflow, {"prompt": "nothing"}, changes={PROMPT: MORE_THAN_A_PIPE_HOLDS}
    )


def stopped(bench: Bench) -> int:
    """Stops the idle worker (SIGSTOP); returns its process id."""
    bench.run()
    pid = bench.pid
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_worker_that_does_not_read_does_not_block_engine(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.2, command_limit_s=NEVER_S)
    pid = stopped(bench)
    first, second = submit_large(bench), submit_large(bench)
    status = bench.status_when(lambda status: status.running is not None)
    assert status.worker == "busy"
    assert [run.run_id for run in status.queue] == [second]
    assert bench.engine.cancel(first)
    ended = bench.finish(first).terminal
    assert isinstance(ended, RunCancelled)
    assert "did not stop" in ended.notice
    assert bench.finish(second).success
    assert bench.pid != pid


def test_worker_that_does_not_read_is_closed_in_time(own: Bench):
    stopped(own)
    run_id = submit_large(own)
    own.engine.pin("unet")
    events = own.engine.events(run_id)
    next(events)
    own.engine.close(1.0)
    *_, last = events
    assert isinstance(last, RunCancelled)


def test_unstarted_run_goes_to_the_next_worker(unstarted: Bench):
    bench = unstarted.start(command_limit_s=0.3)
    pid = stopped(bench)
    assert bench.finish(submit_large(bench)).success
    assert bench.pid != pid


def test_run_that_no_worker_begins_fails(unstarted: Bench):
    bench = unstarted.start("when ready stop", command_limit_s=0.3)
    ended = bench.run().terminal
    assert isinstance(ended, RunFailed)
    assert "The worker hung while about to begin a run and was ended." in ended.error.message


def test_hang_while_freeing_is_ended(unstarted: Bench):
    bench = unstarted.start(command_limit_s=0.3)
    bench.run("when freed stop", "hold unet")
    with pytest.raises(WorkerDied, match=r"hung while freeing.*Its memory came back with it"):
        bench.engine.free()
    assert bench.run().success


def test_cancel_and_free_ends_a_hang_while_freeing(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.2, command_limit_s=NEVER_S)
    bench.run("when freed stop", "hold unet")
    with ThreadPoolExecutor() as pool:
        hung = pool.submit(bench.engine.free)
        bench.heard.wait_until(lambda: "free_memory" in bench.heard.kinds)
        waiting = bench.submit()
        freed = pool.submit(bench.engine.free, "cancel_and_free")
        with pytest.raises(WorkerDied, match="hung while freeing"):
            hung.result(PATIENCE_S)
        assert freed.result(PATIENCE_S).dropped == ()
    assert bench.finish(waiting).success


def test_hang_while_pinning_is_ended_and_answered(unstarted: Bench):
    bench = unstarted.start(command_limit_s=0.3)
    bench.run("when pinned stop", "hold unet")
    assert bench.engine.pin("unet").result(PATIENCE_S).held == ()
    assert bench.run().success


def test_hang_while_cleaning_up_is_ended(unstarted: Bench):
    bench = unstarted.start(idle_cleanup_s=0.01, cleanup_limit_s=0.3)
    bench.run("when cleaning stop")
    pid = bench.pid
    bench.status_when(lambda status: status.pid not in (None, pid))
    assert bench.run().success


@pytest.mark.parametrize("wanted", ["cancelled", "begun"])
def test_run_behind_hung_clean_up_can_be_cancelled_and_starts_in_time(
    unstarted: Bench, wanted: str
):
    limit_s = NEVER_S if wanted == "cancelled" else 0.3
    bench = unstarted.start(
        idle_cleanup_s=0.01, cleanup_limit_s=NEVER_S, command_limit_s=limit_s, cancel_grace_s=0.2
    )
    bench.run("when cleaning stop")
    bench.heard.wait_until(lambda: "clean_up" in bench.heard.kinds)
    run_id = bench.submit()
    if wanted == "cancelled":
        bench.status_when(lambda status: status.running is not None)
        bench.engine.cancel(run_id)
        assert isinstance(bench.finish(run_id).terminal, RunCancelled)
    else:
        assert bench.finish(run_id).success


def test_hang_while_starting_is_ended_and_reported(unstarted: Bench):
    bench = unstarted.start("stop", start_limit_s=0.3)
    ended = bench.run().terminal
    assert isinstance(ended, RunFailed)
    assert "does not start: The worker hung while starting" in ended.error.message


def test_commands_behind_a_long_run_are_not_a_hang(unstarted: Bench):
    bench = unstarted.start(command_limit_s=0.2)
    gate = bench.gate()
    run_id = bench.underway("hold unet", f"wait for {gate}")
    pinned = bench.engine.pin("unet")
    with pytest.raises(TimeoutError):
        pinned.result(0.6)
    gate.touch()
    assert bench.finish(run_id).success
    assert [part.pinned for part in pinned.result(PATIENCE_S).held] == [True]


# --- the grace of a cancel -----------------------------------------------------------------------


def test_grace_after_a_long_gap_is_capped(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.05, cancel_grace_limit_s=0.3)
    run_id = bench.underway("gap 1000", "ignore cancel", f"wait for {bench.gate()}")
    bench.engine.cancel(run_id)
    ended = bench.finish(run_id).terminal
    assert isinstance(ended, RunCancelled)
    assert "did not stop" in ended.notice


def test_grace_resets_with_each_worker(unstarted: Bench):
    bench = unstarted.start(cancel_grace_s=0.05, cancel_grace_limit_s=NEVER_S)
    bench.run("gap 1000", "kill")
    run_id = bench.underway("ignore cancel", f"wait for {bench.gate()}")
    bench.engine.cancel(run_id)
    assert isinstance(bench.finish(run_id).terminal, RunCancelled)
