"""An engine with a scripted worker, and helpers to observe both."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from app.engine import Engine
from app.engine.status import EngineStatus
from app.protocol import Command, RunEvent, RunStarted, StartRun, decode_command
from app.settings import EngineSettings, PathSettings, Settings, WorkerSettings
from tests.doubles.scripted_worker import AT_START, LOOK_AGAIN_S, STARTS, scripted_worker
from tests.engines import Finished

Kind = TypeVar("Kind")
PATIENCE_S = 10.0
"""Timeout for what must happen at once, on a busy machine."""


class Heard(logging.Handler):
    """Records the commands that the double reports, and waits for more."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []
        self._grown = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._grown:
            self._records.append(record)
            self._grown.notify_all()

    @property
    def commands(self) -> list[Command]:
        """Returns all commands the worker has read, in order."""
        # (With several workers, the worker's name comes before the line.)
        lines = [record.getMessage().partition("{") for record in self._records]
        return [decode_command(f"{brace}{rest}".encode()) for _, brace, rest in lines]

    @property
    def kinds(self) -> list[str]:
        """Returns the kinds of commands the worker has read, in order."""
        return [command.type for command in self.commands]

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Waits for more commands until this is true."""
        with self._grown:
            assert self._grown.wait_for(true, PATIENCE_S), self.kinds


def settings(
    outputs: Path, devices: tuple[str, ...] = (), paths: PathSettings | None = None, **engine: Any
) -> Settings:
    """Settings with these of the engine's; no cleanup comes unless a test asks for it.

    Without `devices` there is one worker on the CPU.
    """
    return Settings(
        engine=EngineSettings(**{"idle_cleanup_s": 3600.0, "restart_delay_s": 0.01, **engine}),
        worker=WorkerSettings(devices=devices) if devices else WorkerSettings(device="cpu"),
        paths=paths or PathSettings(outputs=outputs),
    )


class Bench:
    """One engine, its scripted worker, and the commands that crossed the pipe."""

    def __init__(
        self, engine: Engine, workflow: Path, outputs: Path, gates: Path, heard: Heard
    ) -> None:
        self.engine, self.workflow, self.outputs, self.heard = engine, workflow, outputs, heard
        self._gates = gates

    def start(
        self, at_start: str = "nothing", devices: tuple[str, ...] = (), **engine: Any
    ) -> Bench:
        """Starts the engine with these settings and this script for every worker start."""
        self.at_start(at_start)
        self.engine.start(settings(self.outputs, devices, **engine))
        return self

    def at_start(self, script: str) -> None:
        (self.outputs / AT_START).write_text(script)

    @property
    def starts(self) -> int:
        """Returns the number of workers started."""
        return len((self.outputs / STARTS).read_text())

    def gate(self, name: str = "gate") -> Path:
        """Returns the path of a missing file; `wait for` it, then `touch` it."""
        return self._gates / name

    def submit(
        self,
        *script: str,
        seed: int | None = None,
        fresh: bool = False,
        owner: str = "",
        workflow: Path | None = None,
    ) -> str:
        inputs = {"prompt": "; ".join(script) or "nothing"}
        workflow = workflow or self.workflow
        return self.engine.submit(workflow, inputs, seed=seed, fresh=fresh, owner=owner)

    def run(self, *script: str, **how: Any) -> Finished:
        """Submits a run and follows it to the end."""
        return self.finish(self.submit(*script, **how))

    def finish(self, run_id: str) -> Finished:
        return Finished(run_id, tuple(self.engine.events(run_id)))

    def until(self, run_id: str, kind: type[Kind]) -> Kind:
        """Follows the run up to its first event of this kind."""
        seen: list[RunEvent] = []
        for event in self.engine.events(run_id):
            if isinstance(event, kind):
                return event
            seen.append(event)
        raise AssertionError(f"There was no {kind.__name__} in {seen}")

    def underway(self, *script: str, **how: Any) -> str:
        """Submits a run, and returns when the worker has begun it."""
        run_id = self.submit(*script, **how)
        self.until(run_id, RunStarted)
        return run_id

    def status_when(self, true: Callable[[EngineStatus], bool]) -> EngineStatus:
        """Returns the first status for which this is true."""
        until = time.monotonic() + PATIENCE_S
        while not true(status := self.engine.status()):
            assert time.monotonic() < until, status
            time.sleep(LOOK_AGAIN_S)
        return status

    @property
    def pid(self) -> int:
        """The worker's process id."""
        pid = self.engine.status().pid
        assert pid is not None
        return pid

    @property
    def sent(self) -> list[str]:
        """Returns the ids of runs sent to the worker, in order."""
        return [command.run_id for command in self.heard.commands if isinstance(command, StartRun)]


@contextlib.contextmanager
def serving(
    tmp_path: Path, workflow: Path, uploads: Path | None, heard: Heard, **options: Any
) -> Iterator[Bench]:
    """An engine started as by a server, over the same outputs folder each time."""
    outputs = tmp_path / "outputs"
    outputs.mkdir(exist_ok=True)
    engine = Engine(scripted_worker)
    bench = Bench(engine, workflow, outputs, tmp_path, heard)
    bench.at_start("nothing")
    engine.start(settings(outputs, **options), uploads=uploads)
    try:
        yield bench
    finally:
        engine.close()
