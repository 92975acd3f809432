"""Memory really runs out in a real worker process, and the run recovers.

The limit of the worker's data (RLIMIT_DATA) is lowered from outside to just above its use when
warm, so that a large image can be drawn and decoded in tiles, but not at once.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.engine import Engine
from app.protocol import MemoryRanOut, RunFailed
from tests.engines import Finished, run, started_engine
from tests.worker.bench import document, same, step

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux limits the memory of another process"
)

MIB = 1024 * 1024
LARGE = {"width": 768, "height": 768, "num_inference_steps": 1, "guidance_scale": 1}
"""Needs 300 to 350 MiB to decode at once; in tiles, and to draw, less than 120."""
ROOM_BYTES = 220 * MIB


class Worker(NamedTuple):
    """The engine of a worker that has drawn a small image, and its memory limit."""

    engine: Engine
    limit_bytes: int

    @property
    def pid(self) -> int:
        pid = self.engine.status().pid
        assert pid is not None
        return pid

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        before = resource.prlimit(self.pid, resource.RLIMIT_DATA, (self.limit_bytes, -1))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_DATA, before)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("outputs")
    with started_engine(folder) as engine:
        for _ in range(2):
            run(engine, written(folder / "small.json"))
        warm = Worker(engine, 0)
        yield warm._replace(limit_bytes=data_bytes(warm.pid) + ROOM_BYTES)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return written(tmp_path / "small.json")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return written(tmp_path / "large.json", **LARGE)


def written(path: Path, **arguments: Any) -> Path:
    path.write_text(json.dumps(document(step(**arguments), id=path.stem)))
    return path


def data_bytes(pid: int) -> int:
    """Returns the bytes that count against RLIMIT_DATA."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def told(finished: Finished) -> list[MemoryRanOut]:
    return [event for event in finished.events if isinstance(event, MemoryRanOut)]


def test_out_of_memory_is_recovered_by_leaner_mode(worker: Worker, small: Path, large: Path):
    ordinary = run(worker.engine, small)
    pid = worker.pid
    with worker.limited():
        recovered = run(worker.engine, large)
        after = run(worker.engine, small)
    (event,) = told(recovered)
    assert event.phase == "decoding"
    assert event.done == ("Run again with VAE tiling and VAE slicing.",)
    (result,) = recovered.results
    assert (result.width, result.height) == (768, 768)
    assert json.loads(Path(result.sidecar).read_text())["out_of_memory"] == [event.sentence]
    assert after.success.loaded == ()
    assert after.success.out_of_memory == ()
    assert same(ordinary, after)
    assert worker.pid == pid


def test_leaner_mode_result_is_not_cached(worker: Worker, small: Path, large: Path):
    run(worker.engine, small)
    with worker.limited():
        assert told(run(worker.engine, large, seed=5, fresh=False))
    ordinary = run(worker.engine, large, seed=5, fresh=False)
    assert ordinary.success.made_at is None
    assert told(ordinary) == []
    assert run(worker.engine, large, seed=5, fresh=False).success.made_at is not None


def test_out_of_memory_in_leaner_mode_fails_with_numbers(
    worker: Worker, small: Path, large: Path, tmp_path: Path
):
    ordinary = run(worker.engine, small)
    tall = written(tmp_path / "tall.json", **(LARGE | {"width": 3072, "height": 3072}))
    with worker.limited():
        failed = run(worker.engine, tall).terminal
        after = run(worker.engine, small)
    assert isinstance(failed, RunFailed)
    assert failed.error.kind == "OutOfMemory"
    assert ", also with VAE tiling and VAE slicing: " in failed.error.message
    assert " MB are free, 22 MB of models are held, " in failed.error.message
    assert after.success.loaded == ()
    assert same(ordinary, after)
