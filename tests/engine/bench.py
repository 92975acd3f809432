"""An engine whose worker does what each prompt says, and what a test wants to know of the two."""

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
"""How long a test waits for what must come at once, on a machine that has much else to do."""


class Heard(logging.Handler):
    """Keeps the commands the double tells of, and lets a test wait for more."""

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
        """All that the worker has read, in order."""
        return [decode_command(record.getMessage().encode()) for record in self._records]

    @property
    def kinds(self) -> list[str]:
        """Of all that the worker has read the kinds, in order."""
        return [command.type for command in self.commands]

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait for more until this is true."""
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
        """Start the engine with these of its settings and this script for every worker's start."""
        self.at_start(at_start)
        self.engine.start(settings(self.outputs, devices, **engine))
        return self

    def at_start(self, script: str) -> None:
        (self.outputs / AT_START).write_text(script)

    @property
    def starts(self) -> int:
        """How many workers there have been."""
        return len((self.outputs / STARTS).read_text())

    def gate(self, name: str = "gate") -> Path:
        """A file that is not there; `wait for` it, then `touch` it."""
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
        """Submit and follow to the end."""
        return self.finish(self.submit(*script, **how))

    def finish(self, run_id: str) -> Finished:
        return Finished(run_id, tuple(self.engine.events(run_id)))

    def until(self, run_id: str, kind: type[Kind]) -> Kind:
        """Follow the run as far as its first event of this kind."""
        seen: list[RunEvent] = []
        for event in self.engine.events(run_id):
            if isinstance(event, kind):
                return event
            seen.append(event)
        raise AssertionError(f"There was no {kind.__name__} in {seen}")

    def underway(self, *script: str, **how: Any) -> str:
        """Submit, and come back when the worker is at it."""
        run_id = self.submit(*script, **how)
        self.until(run_id, RunStarted)
        return run_id

    def status_when(self, true: Callable[[EngineStatus], bool]) -> EngineStatus:
        """The first status of which this is true."""
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
        """The ids of the runs the worker was given, in order."""
        return [command.run_id for command in self.heard.commands if isinstance(command, StartRun)]


@contextlib.contextmanager
def serving(
    tmp_path: Path, workflow: Path, uploads: Path | None, heard: Heard, **options: Any
) -> Iterator[Bench]:
    """An engine as a server starts it, over the same folder of results each time."""
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
