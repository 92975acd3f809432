"""Two real workers on the CPU compute at the same time, and what one of them alone would."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PIL import Image
from psutil import virtual_memory

from app.engine import Engine
from app.protocol import RunStarted
from app.settings import WorkerSettings
from app.workflow.models.fit import DEVICE_SHARE
from tests.engines import Finished, started_engine

SEEDS = (3, 4)
DRAWN: dict[str, Any] = {"prompt": "a red circle on a white background", "steps": 12}
START_S = 60.0
"""How long two workers may take to import their libraries on a busy machine."""


def wait_until_ready(engine: Engine) -> None:
    until = time.monotonic() + START_S
    while any(slot.worker != "ready" for slot in engine.status().slots):
        assert time.monotonic() < until, engine.status()
        time.sleep(0.05)


def drawn_at_once(engine: Engine, workflow: Path) -> list[Finished]:
    """Both runs, submitted together when all workers are ready."""
    wait_until_ready(engine)
    run_ids = [engine.submit(workflow, DRAWN, seed=seed, fresh=True) for seed in SEEDS]
    return [Finished(run_id, tuple(engine.events(run_id))) for run_id in run_ids]


def images(runs: list[Finished]) -> list[bytes]:
    """The pixels of all images."""
    assert all(run.success for run in runs)
    return [Image.open(result.path).tobytes() for run in runs for result in run.results]


def test_two_workers_compute_at_the_same_time_what_one_would(
    tmp_path: Path, shipped_workflows: Path
):
    """Takes three starts of a real worker, two of them at the same time."""
    workflow = shipped_workflows / "text-to-image.json"
    one, two = WorkerSettings(devices=("cpu",)), WorkerSettings(devices=("cpu", "cpu"))
    with started_engine(tmp_path / "one", one) as engine:
        expected = images(drawn_at_once(engine, workflow))
    with started_engine(tmp_path / "two", two) as engine:
        runs = drawn_at_once(engine, workflow)
        first, second = (slot.budgets for slot in engine.status().slots)
    assert images(runs) == expected
    assert len(set(expected)) == len(SEEDS)
    starts = [event.time for run in runs for event in run.events if isinstance(event, RunStarted)]
    assert max(starts) < min(run.terminal.time for run in runs)
    assert first is not None
    assert first == second
    assert first.device_bytes <= DEVICE_SHARE * virtual_memory().total / 2
