"""The worker process: events, exit reports, kills."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.engine.slots.local import KEPT_STDERR_LINES, WorkerProcess, exit_of
from app.engine.slots.worker import WorkerExit
from app.protocol import (
    CleanUp,
    Event,
    FreeMemory,
    Logged,
    MemoryFreed,
    MemoryReported,
    ShutDown,
    WorkerReady,
)
from app.settings import WorkerSettings
from tests.conftest import PROJECT
from tests.doubles.scripted_worker import AT_START, scripted_worker
from tests.engine.bench import PATIENCE_S


class Watched:
    """A worker process, and everything it reported, in order."""

    def __init__(self, outputs: Path, at_start: str) -> None:
        (outputs / AT_START).write_text(at_start)
        self._told: queue.SimpleQueue[Event | WorkerExit] = queue.SimpleQueue()
        self.process = WorkerProcess(
            scripted_worker,
            outputs,
            WorkerSettings(device="cpu"),
            on_event=self._told.put,
            on_exit=self._told.put,
        )

    def next(self) -> Event | WorkerExit:
        """Returns the next event, except the double's log of commands."""
        while isinstance(told := self._told.get(timeout=PATIENCE_S), Logged):
            pass
        return told

    def exit(self) -> WorkerExit:
        """Returns how it ended; fails on other events before or after."""
        ended = self.next()
        assert isinstance(ended, WorkerExit), ended
        assert self._told.empty()
        return ended


@pytest.fixture
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path, getattr(request, "param", "nothing"))
    try:
        yield watched
    finally:
        watched.process.kill()


def starting_with(script: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("worker", [script], indirect=True, ids=[""])


def test_worker_answers_commands_and_exit_comes_last(worker: Watched):
    ready = worker.next()
    assert isinstance(ready, WorkerReady)
    assert ready.pid == worker.process.pid != os.getpid()
    worker.process.send(FreeMemory(request_id="a"))
    freed = worker.next()
    assert isinstance(freed, MemoryFreed)
    assert freed.request_id == "a"
    assert isinstance(worker.next(), MemoryReported)
    worker.process.send(ShutDown())
    assert "exit code 0" in worker.exit().sentence
    assert not psutil.pid_exists(worker.process.pid)


@starting_with("hold unet; hold vae; exit 3")
def test_pipe_is_drained_before_exit_is_reported(worker: Watched):
    assert [type(worker.next()) for _ in range(2)] == [MemoryReported] * 2
    ended = worker.exit()
    assert ended.sentence == "The worker process ended by itself (exit code 3)."


@starting_with("kill")
def test_exit_by_signal_is_named(worker: Watched):
    ended = worker.exit()
    assert ended.sentence == "The worker process was ended by SIGKILL."
    assert "out of memory" in ended.hint


def test_sigkill_hint_mentions_memory():
    assert "memory" not in exit_of(-signal.SIGSEGV, "").hint
    assert "memory" not in exit_of(1, "").hint


def test_worker_can_be_killed(worker: Watched):
    worker.next()
    worker.process.kill()
    assert "SIGKILL" in worker.exit().sentence


@starting_with("; ".join(f"complain line {number}" for number in range(50)) + "; exit 1")
def test_exit_report_has_last_stderr_lines(worker: Watched):
    lines = worker.exit().last_lines.splitlines()
    assert lines == [f"line {number}" for number in range(50)][-KEPT_STDERR_LINES:]


@starting_with("stumble")
def test_exit_report_has_traceback(worker: Watched):
    ended = worker.exit()
    assert "exit code 1" in ended.sentence
    assert "ValueError: The script says 'stumble'" in ended.last_lines


@starting_with("babble; wait for nobody")
def test_invalid_event_ends_worker(worker: Watched):
    assert "SIGKILL" in worker.exit().sentence


@starting_with("exit 3")
def test_command_to_ended_worker_is_lost(worker: Watched):
    worker.exit()
    worker.process.send(CleanUp())
    worker.process.kill()


PARENT = """
import sys
from pathlib import Path
from app.engine import Engine
from app.protocol import RunStarted
from app.settings import PathSettings, Settings
from tests.doubles.scripted_worker import scripted_worker

if __name__ == "__main__":
    workflow, outputs = map(Path, sys.argv[1:])
    engine = Engine(scripted_worker)
    engine.start(Settings(paths=PathSettings(outputs=outputs)))
    prompt = "ignore cancel; wait for nobody"
    run_id = engine.submit(workflow, {"prompt": prompt})
    for event in engine.events(run_id):
        if isinstance(event, RunStarted):
            print(engine.status().pid, flush=True)
"""


def test_killed_parent_leaves_no_worker(workflow: Path, tmp_path: Path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, program, workflow, tmp_path],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        assert psutil.pid_exists(int(parent.stdout.readline()))
        parent.kill()
        # The worker has inherited this pipe, which ends when its last holder is gone.
        rest, _ = parent.communicate(timeout=PATIENCE_S)
        assert rest == b""
