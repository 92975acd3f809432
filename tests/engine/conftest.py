"""Fixtures of the engine's tests."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine import Engine
from tests.doubles.scripted_worker import COMMANDS, scripted_worker
from tests.engine.bench import Bench, Heard, settings


@pytest.fixture(scope="session")
def workflow(
    tmp_path_factory: pytest.TempPathFactory, shipped_workflows: Path, shapes_model: Path
) -> Path:
    """The shipped workflow with a model that is only an index: no weights are read."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "workflows").mkdir()
    (root / "models" / "shapes").mkdir(parents=True)
    shutil.copy(shapes_model / "model_index.json", root / "models" / "shapes")
    return Path(shutil.copy(shipped_workflows / "text-to-image.json", root / "workflows"))


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    """An empty uploads folder."""
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


@pytest.fixture
def heard() -> Iterator[Heard]:
    """The commands a scripted worker has read."""
    log, handler = logging.getLogger(COMMANDS), Heard()
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)


@pytest.fixture
def unstarted(workflow: Path, tmp_path: Path, heard: Heard) -> Iterator[Bench]:
    """A private engine that has not been started; closed at the end."""
    engine = Engine(scripted_worker)
    try:
        yield Bench(engine, workflow, tmp_path, tmp_path, heard)
    finally:
        engine.close()


@pytest.fixture
def own(unstarted: Bench) -> Bench:
    """A private started engine, which a test may close, and whose workers it may count."""
    return unstarted.start()


@pytest.fixture(scope="session")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path]]:
    """The engine behind `bench`, and its outputs folder."""
    engine, outputs = Engine(scripted_worker), tmp_path_factory.mktemp("outputs")
    engine.start(settings(outputs))
    try:
        yield engine, outputs
    finally:
        engine.close()


@pytest.fixture
def bench(
    shared_engine: tuple[Engine, Path], workflow: Path, tmp_path: Path, heard: Heard
) -> Iterator[Bench]:
    """A shared started engine, idle and with nothing held."""
    engine, outputs = shared_engine
    yield Bench(engine, workflow, outputs, tmp_path, heard)
    for run in engine.runs():
        engine.cancel(run.run_id)
    engine.free()
