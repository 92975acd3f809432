"""The engine's public interface: submissions, order, status."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.engine import Engine
from app.engine.slots.worker_log import log_worker_line
from app.errors import (
    BadRequest,
    EngineError,
    EngineNotStarted,
    InvalidInputs,
    QueueFull,
    UnknownRun,
    UnknownWorkflow,
)
from app.protocol import Logged, PhaseChanged, RunQueued, RunStarted, RunSucceeded
from tests.conftest import PROJECT
from tests.engine.bench import Bench

NO_RUN = "20260101-000000-abcdef"


def test_importing_the_engine_starts_nothing():
    program = (
        "import threading, psutil, app.engine, sys;"
        "assert threading.active_count() == 1, threading.enumerate();"
        "assert not psutil.Process().children();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True, timeout=30)


async def every_method_refuses(engine: Engine, workflow: Path) -> None:
    for call in (
        lambda: engine.submit(workflow, {}),
        lambda: engine.cancel(NO_RUN),
        lambda: next(engine.events(NO_RUN)),
        engine.free,
        engine.status,
        engine.runs,
    ):
        with pytest.raises(EngineNotStarted, match="has not been started"):
            call()
    with pytest.raises(EngineNotStarted):
        await anext(engine.follow(NO_RUN))
    with pytest.raises(EngineNotStarted):
        await engine.free_async()


async def test_methods_of_stopped_engine_raise(unstarted: Bench):
    await every_method_refuses(unstarted.engine, unstarted.workflow)
    unstarted.start()
    unstarted.engine.close()
    await every_method_refuses(unstarted.engine, unstarted.workflow)


def test_second_start_is_refused(bench: Bench):
    with pytest.raises(EngineError, match="running already"):
        bench.start()
    assert bench.run().success


def test_closed_engine_can_be_started_again(own: Bench):
    own.engine.close()
    own.start()
    assert own.run().success


# --- submitting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "seed", "what"),
    [
        ({"prompts": "a circle"}, None, "prompt"),
        ({"steps": "many"}, None, "steps"),
        ({"steps": 1000}, None, "steps"),
        ({}, -1, "seed"),
    ],
)
def test_invalid_input_is_refused_without_a_run(
    bench: Bench, inputs: dict[str, Any], seed: int | None, what: str
):
    before = bench.engine.runs()
    with pytest.raises(InvalidInputs, match=what):
        bench.engine.submit(bench.workflow, inputs, seed=seed)
    assert bench.engine.runs() == before


def test_missing_workflow_is_refused_without_a_run(bench: Bench):
    before = bench.engine.runs()
    with pytest.raises(UnknownWorkflow) as caught:
        bench.engine.submit(bench.workflow.with_name("not-there.json"), {})
    assert isinstance(caught.value, BadRequest)
    assert bench.engine.runs() == before


def test_worker_receives_the_plan(bench: Bench):
    run_id = bench.run("nothing", seed=7).run_id
    [command] = bench.heard.commands
    assert (command.type, command.run_id, command.previews) == ("start_run", run_id, False)
    assert command.plan.inputs["prompt"] == "nothing"
    assert (command.plan.seed, command.plan.seed_given) == (7, True)


def test_full_queue_refuses_runs(unstarted: Bench):
    bench = unstarted.start(max_queued_runs=2)
    gate = bench.gate()
    bench.underway(f"wait for {gate}")
    waiting = [bench.submit(), bench.submit()]
    with pytest.raises(QueueFull, match="2 runs are waiting already"):
        bench.submit()
    gate.touch()
    assert all(bench.finish(run_id).success for run_id in waiting)


@pytest.mark.parametrize("method", ["cancel", "events"])
def test_unknown_run_raises(bench: Bench, method: str):
    call = {"cancel": bench.engine.cancel, "events": lambda run: list(bench.engine.events(run))}
    with pytest.raises(UnknownRun, match=NO_RUN):
        call[method](NO_RUN)


# --- the order -----------------------------------------------------------------------------------


def test_runs_wait_until_worker_is_ready(unstarted: Bench):
    gate = unstarted.gate()
    bench = unstarted.start(f"wait for {gate}")
    runs = [bench.submit(), bench.submit()]
    assert [run.state for run in bench.engine.runs()] == ["ready", "ready"]
    gate.touch()
    assert all(bench.finish(run_id).success for run_id in runs)
    assert bench.sent == runs


def test_concurrent_submits_run_one_at_a_time_in_order(bench: Bench):
    together, pid = threading.Barrier(20), bench.pid

    def submit_and_follow(_number: int) -> bool:
        together.wait()
        return bool(bench.run().success)  # the double exits if it gets two at once

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(submit_and_follow, range(20)))
    newest_first = [run.run_id for run in bench.engine.runs()[:20]]
    assert bench.sent == newest_first[::-1]
    assert bench.pid == pid


def test_waiting_run_reports_position_changes(bench: Bench):
    gate, other = bench.gate(), bench.gate("other")
    bench.underway(f"wait for {gate}")
    first, second, third = (bench.submit(f"wait for {other}") for _ in range(3))
    bench.engine.cancel(second)
    gate.touch()
    other.touch()

    def positions(run_id: str) -> list[int]:
        events = bench.finish(run_id).events
        return [event.position for event in events if isinstance(event, RunQueued)]

    assert positions(first) == [0]
    assert positions(second) == [1]
    assert positions(third) == [2, 1, 0]


# --- lists and the snapshot ----------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_by_owner(bench: Bench):
    claras = bench.run(owner="clara").run_id
    bens = bench.run("fail no", owner="ben").run_id
    assert [(run.run_id, run.state) for run in bench.engine.runs()[:2]] == [
        (bens, "failed"),
        (claras, "succeeded"),
    ]
    assert [run.run_id for run in bench.engine.runs("clara")] == [claras]
    assert bench.engine.runs("carl") == []


def test_finished_runs_are_limited(unstarted: Bench):
    bench = unstarted.start(kept_runs=2)
    runs = [bench.run().run_id for _ in range(4)]
    assert bench.engine.owned("") == {runs[3], runs[2]}
    assert [run.run_id for run in bench.engine.runs()] == runs[::-1]
    with pytest.raises(UnknownRun):
        bench.engine.cancel(runs[0])


def test_status_shows_starting_worker(unstarted: Bench):
    gate = unstarted.gate()
    bench = unstarted.start(f"wait for {gate}")
    waiting = bench.submit()
    status = bench.engine.status()
    assert (status.worker, status.device, status.device_name) == ("starting", "", "")
    assert (status.running, status.memory, status.held) == (None, None, ())
    assert [run.run_id for run in status.queue] == [waiting]
    gate.touch()


def test_status_shows_busy_and_ready_worker(bench: Bench):
    gate = bench.gate()
    running = bench.submit("hold unet", "enter denoising", f"wait for {gate}")
    bench.until(running, PhaseChanged)
    waiting = bench.submit()
    status = bench.engine.status()
    assert status.worker == "busy"
    assert (status.device, status.device_name) == ("cpu", "Scripted")
    assert status.versions == {"script": "1"}
    assert status.running is not None
    assert (status.running.run_id, status.running.phase) == (running, "denoising")
    assert [run.run_id for run in status.queue] == [waiting]
    assert status.memory is not None
    assert status.memory.device_bytes == status.held[0].weight_bytes

    gate.touch()
    bench.finish(waiting)
    status = bench.engine.status()
    assert (status.worker, status.running, status.queue) == ("ready", None, ())
    assert [part.title for part in status.held] == ["unet"]


def test_success_event_is_passed_on(bench: Bench):
    success = bench.run("hold unet", "return 1").success
    assert isinstance(success, RunSucceeded)
    assert (success.loaded, success.outputs) == (("unet",), ("1",))
    assert bench.heard.kinds == ["start_run"]


# --- between runs --------------------------------------------------------------------------------


def test_clean_up_waits_until_no_run_is_left(unstarted: Bench):
    bench = unstarted.start(idle_cleanup_s=1e-9)
    gate = bench.gate()
    first = bench.underway(f"wait for {gate}")
    second = bench.submit("enter loading", "enter denoising")
    gate.touch()
    bench.finish(second)
    bench.heard.wait_until(lambda: "clean_up" in bench.heard.kinds)
    assert bench.heard.kinds == ["start_run", "start_run", "clean_up"]
    assert bench.sent == [first, second]


def test_idle_worker_is_cleaned_up_once(unstarted: Bench):
    bench = unstarted.start(idle_cleanup_s=1e-9)
    for count in (1, 2):
        bench.run()
        bench.heard.wait_until(lambda: bench.heard.kinds.count("clean_up") == count)  # noqa: B023
    bench.engine.status()
    assert bench.heard.kinds == ["start_run", "clean_up"] * 2


# --- the worker's log ----------------------------------------------------------------------------


def test_worker_log_keeps_loggers_and_times(bench: Bench, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="app.worker.runner")
    run = bench.run(
        "log WARNING app.worker.loading.load 10% is %s and {that}",
        "log INFO app.worker.runner Run started",
        "log DEBUG app.worker.runner too fine",
    )
    lines = [record for record in caplog.records if record.name.startswith("app.worker")]
    assert [(line.name, line.levelname, line.getMessage()) for line in lines] == [
        ("app.worker.loading.load", "WARNING", "10% is %s and {that}"),
        ("app.worker.runner", "INFO", "Run started"),
    ]
    started = next(event for event in run.events if isinstance(event, RunStarted))
    assert [line.created for line in lines] == [started.time] * 2
    # A formatter takes seconds and milliseconds from different fields.
    assert [line.msecs for line in lines] == pytest.approx([started.time % 1 * 1000] * 2, abs=1)


def test_worker_log_keeps_milliseconds(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO, logger="app.worker.runner")
    for time, text in ((1000.75, "started"), (1001.25, "ended")):
        log_worker_line(
            Logged(time=time, level=logging.INFO, logger="app.worker.runner", text=text)
        )
    formatter = logging.Formatter("%(asctime)s %(message)s")
    shown = [formatter.format(line).partition(",")[2] for line in caplog.records]
    assert shown == ["750 started", "250 ended"]


def test_worker_stderr_is_passed_on(own: Bench, capsys: pytest.CaptureFixture[str]):
    own.run("complain the device is hot")
    own.engine.close()
    assert "the device is hot\n" in capsys.readouterr().err
