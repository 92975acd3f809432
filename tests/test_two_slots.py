"""Two real workers on the CPU run at the same time, with the results of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from psutil import virtual_memory

from app.engine import Engine
from app.engine.assign import missing_bytes
from app.engine.status import SlotStatus
from app.models.fit import DEVICE_SHARE
from app.models.plan_specs import plan_specs
from app.planning.planner import make_plan
from app.protocol import RunStarted
from app.settings import PathSettings, WorkerSettings
from tests.engines import Finished, started_engine

SEEDS = (3, 4)
DRAWN: dict[str, Any] = {"prompt": "a red circle on a white background", "steps": 12}
START_S = 60.0
"""How long two workers may take to import their libraries on a busy machine."""


def slots_when(engine: Engine, true: Callable[[SlotStatus], Any]) -> tuple[SlotStatus, ...]:
    """All slots as soon as this is true of each."""
    until = time.monotonic() + START_S
    while not all(map(true, slots := engine.status().slots)):
        assert time.monotonic() < until, slots
        time.sleep(0.05)
    return slots


def drawn_at_once(engine: Engine, workflow: Path) -> list[Finished]:
    """Both runs, submitted together when all workers are ready."""
    slots_when(engine, lambda slot: slot.worker == "ready")
    run_ids = [engine.submit(workflow, DRAWN, seed=seed, fresh=True) for seed in SEEDS]
    return [Finished(run_id, tuple(engine.events(run_id))) for run_id in run_ids]


def images(runs: list[Finished]) -> list[bytes]:
    """The pixels of all images."""
    assert all(run.success for run in runs)
    return [Image.open(result.path).tobytes() for run in runs for result in run.results]


def test_two_workers_run_concurrently_with_equal_results(tmp_path: Path, shipped_workflows: Path):
    """Takes three starts of a real worker, two of them at the same time."""
    workflow = shipped_workflows / "text-to-image.json"
    one, two = WorkerSettings(devices=("cpu",)), WorkerSettings(devices=("cpu", "cpu"))
    with started_engine(tmp_path / "one", one) as engine:
        expected = images(drawn_at_once(engine, workflow))
    with started_engine(tmp_path / "two", two) as engine:
        runs = drawn_at_once(engine, workflow)
        slots = slots_when(engine, lambda slot: slot.held)
    assert images(runs) == expected
    assert len(set(expected)) == len(SEEDS)
    starts = [event.time for run in runs for event in run.events if isinstance(event, RunStarted)]
    assert max(starts) < min(run.terminal.time for run in runs)
    loads = plan_specs(make_plan(workflow, DRAWN, paths=PathSettings()).steps).weight_bytes
    for slot in slots:
        assert slot.budgets is not None
        assert slot.budgets.device_bytes <= DEVICE_SHARE * virtual_memory().total / 2
        assert missing_bytes(loads, {item.key for item in slot.held}) == 0
