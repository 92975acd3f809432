"""The real engine with its real worker process, and a call that runs a workflow to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import JsonValue

from app.engine import Engine
from app.protocol import TERMINAL, Noticed, ResultSaved, RunEvent, RunSucceeded, TerminalEvent
from app.settings import PathSettings, Settings, UrlSettings, WorkerSettings


class Finished(NamedTuple):
    """A run that is over."""

    run_id: str
    events: tuple[RunEvent, ...]

    @property
    def terminal(self) -> TerminalEvent:
        """How it ended."""
        assert isinstance(self.events[-1], TERMINAL)
        return self.events[-1]

    @property
    def success(self) -> RunSucceeded:
        """The success event; the test fails with the error otherwise."""
        assert isinstance(self.terminal, RunSucceeded), self.terminal.model_dump_json(indent=2)
        return self.terminal

    @property
    def results(self) -> tuple[ResultSaved, ...]:
        """Its results, in order."""
        return tuple(event for event in self.events if isinstance(event, ResultSaved))


def notices(finished: Finished) -> list[str]:
    """Returns what a run that succeeded told of its results, in order."""
    assert finished.success
    return [event.sentence for event in finished.events if isinstance(event, Noticed)]


@contextlib.contextmanager
def started_engine(
    outputs: Path,
    worker: WorkerSettings | None = None,
    models: tuple[Path, ...] = PathSettings().models,
    urls: UrlSettings | None = None,
) -> Iterator[Engine]:
    """Starts an engine that writes below `outputs`, closed at the end. Its worker is on the CPU."""
    engine = Engine()
    paths = PathSettings(
        outputs=outputs, media=(outputs,), models=models, urls=urls or UrlSettings()
    )
    engine.start(Settings(paths=paths, worker=worker or WorkerSettings(device="cpu")))
    try:
        yield engine
    finally:
        engine.close()


def run(
    engine: Engine,
    workflow: Path,
    inputs: Mapping[str, JsonValue] | None = None,
    *,
    seed: int | None = 3,
    fresh: bool = True,
    changes: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Finished:
    """Submits the workflow and follows it to its end, however it ends."""
    run_id = engine.submit(workflow, inputs or {}, seed=seed, fresh=fresh, changes=changes)
    return Finished(run_id, tuple(engine.events(run_id)))
