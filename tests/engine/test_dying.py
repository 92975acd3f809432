"""Worker deaths: what is reported, and that the engine goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from app.engine import Engine
from app.errors import ErrorReport, WorkerDied
from app.protocol import PhaseChanged, RunFailed
from tests.engine.bench import Bench
from tests.engines import Finished


def death(run: Finished) -> ErrorReport:
    assert isinstance(run.terminal, RunFailed), run.terminal
    assert run.terminal.error.kind == "WorkerDied"
    return run.terminal.error


def test_killed_worker_fails_its_run_and_is_replaced(bench: Bench):
    run_id = bench.submit("enter denoising", f"wait for {bench.gate()}")
    bench.until(run_id, PhaseChanged)
    waiting, pid = bench.submit(), bench.pid
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    run = bench.finish(run_id)
    error = death(run)
    assert run.terminal.time - killed_at < 1.0
    assert error.message == ("The worker process was ended by SIGKILL. The run was denoising.")
    assert "out of memory" in error.hint
    assert bench.finish(waiting).success
    assert bench.pid != pid


def test_events_before_worker_death_are_delivered(bench: Bench):
    run = bench.run("enter loading", "save a.png", "kill")
    kinds = [event.type for event in run.events]
    assert kinds == ["run_queued", "run_started", "phase_changed", "result_saved", "run_failed"]


def test_exited_worker_reports_code_and_last_lines(bench: Bench):
    error = death(bench.run("complain the driver is gone", "complain goodbye", "exit 3"))
    assert error.message.startswith("The worker process ended by itself (exit code 3).")
    assert error.detail == "the driver is gone\ngoodbye\n"
    assert "driver" not in error.sentence()


def test_worker_with_invalid_events_is_replaced(bench: Bench):
    error = death(bench.run("babble", f"wait for {bench.gate()}"))
    assert "ended" in error.message
    assert bench.run().success


def test_idle_worker_that_dies_is_replaced(own: Bench):
    own.run("hold unet")
    pid, started_again = own.pid, own.gate("started-again")
    os.mkfifo(started_again)
    own.at_start(f"leave {started_again}")
    os.kill(pid, signal.SIGKILL)
    started_again.read_bytes()
    assert own.run().success.loaded == ()
    assert own.pid != pid


def test_status_shows_restarting_worker(own: Bench):
    gate = own.gate()
    own.run("hold unet")
    own.at_start(f"wait for {gate}")
    own.run("kill")
    status = own.status_when(lambda status: status.pid is not None)
    assert (status.worker, status.device, status.running) == ("restarting", "", None)
    assert (status.memory, status.held) == (None, ())
    gate.touch()
    assert own.run().success
    assert own.engine.status().worker == "ready"


def test_worker_death_is_noticed_if_a_child_holds_the_pipe(own: Bench):
    """Takes a moment, since the pipe and stderr do not end."""
    gate = own.gate()
    try:
        death(own.run(f"fork until {gate}", "kill"))
        assert own.run().success
    finally:
        gate.touch()


# --- workers that do not come up -----------------------------------------------------------------


def test_third_failed_start_fails_waiting_runs_and_gives_up(
    unstarted: Bench,
):
    bench = unstarted.start("complain no driver; exit 5")
    runs = [bench.submit() for _ in range(2)]
    for run_id in runs:
        error = death(bench.finish(run_id))
        assert error.message == (
            "The worker process does not start: The worker process ended by itself (exit code 5)."
        )
        assert error.detail == "no driver\n"
        assert error.hint
    status = bench.engine.status()
    assert (status.worker, status.pid, status.queue) == ("dead", None, ())
    assert bench.starts == 3

    with pytest.raises(WorkerDied, match="does not start"):
        bench.engine.free()
    assert bench.starts == 4


def test_new_run_retries_start_and_success_resets_count(unstarted: Bench):
    bench = unstarted.start("exit 5")
    death(bench.run())
    bench.at_start("nothing")
    assert bench.run().success
    assert (bench.engine.status().worker, bench.starts) == ("ready", 3 + 1)

    bench.at_start("exit 5")
    bench.submit("kill")
    death(bench.run())
    assert (bench.engine.status().worker, bench.starts) == ("dead", 3 + 1 + 3)


def test_process_that_cannot_be_spawned_counts_as_failed_start(unstarted: Bench):
    with contextlib.closing(Engine(lambda *_: None)) as engine:  # A lambda cannot be pickled.
        unstarted.engine = engine
        assert "does not start" in death(unstarted.start().run()).message
        assert engine.status().worker == "dead"


# --- workers that do not stay --------------------------------------------------------------------


def test_unstarted_run_survives_worker_that_dies_after_ready(unstarted: Bench):
    bench = unstarted.start(f"when ready once {unstarted.gate()} exit 5")
    run = bench.run()
    assert run.success
    assert bench.starts == 2
    kinds = [event.type for event in run.events]
    assert kinds.count("run_started") == 1


def test_worker_that_always_dies_after_ready_is_given_up(unstarted: Bench):
    bench = unstarted.start("complain no power; when ready exit 5")
    error = death(bench.run())
    assert "does not start" in error.message
    assert (bench.starts, bench.engine.status().worker) == (3, "dead")


def test_worker_that_died_in_a_run_restarts_without_delay(unstarted: Bench):
    bench = unstarted.start(restart_delay_s=3600)
    for _ in range(2):
        death(bench.run("kill"))
    assert bench.run().success


def test_worker_that_failed_to_start_restarts_after_a_delay(unstarted: Bench):
    bench = unstarted.start(f"once {unstarted.gate()} exit 5", restart_delay_s=0.5)
    run = bench.run()
    assert run.success
    assert bench.starts == 2


def test_status_answers_between_two_starts(unstarted: Bench):
    bench = unstarted.start("exit 5", restart_delay_s=3600)
    waiting = bench.submit()
    status = bench.status_when(lambda status: status.pid is None)
    assert (status.worker, [run.run_id for run in status.queue]) == ("starting", [waiting])
    assert bench.engine.cancel(waiting)
    assert bench.finish(waiting).terminal.type == "run_cancelled"
