"""The worker warns when its memory grows between runs, and only then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from app.planning.planner import make_plan
from app.protocol import MemoryReported, MemoryUse
from app.settings import PathSettings
from app.worker.memory_reports import MAX_WORKFLOWS, Growth
from tests.worker.bench import SHAPES, Bench, document, step

MB = 1_000_000
GROWTH = "memory grew by"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A runner with a much lower threshold than the default."""
    return Bench(tmp_path, growth_warning_bytes=100 * MB)


def block_of(megabytes: int) -> bytearray:
    return bytearray(os.urandom(MB)) * megabytes


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return [line for line in said if GROWTH in line]


def test_memory_growth_between_runs_is_logged_with_its_amount(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    bench.run(document(step()))
    bench.run(document(step()))
    assert warnings(caplog) == []
    leak = block_of(200)
    bench.run(document(step()))
    (line,) = warnings(caplog)
    assert line.startswith("Process memory grew by ")
    assert line.endswith(" MB between two runs of 'test'")
    grown = int(line.removeprefix("Process memory grew by ").partition(" ")[0])
    assert 100 <= grown <= 1.5 * len(leak) / MB


def test_memory_growth_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture):
    bench.run(document(step()))
    leak = block_of(200)
    bench.run(document(step()))
    assert len(warnings(caplog)) == 1
    bench.run(document(step()))
    assert warnings(caplog) == []
    del leak


def test_memory_growth_ignores_first_run(bench: Bench, caplog: pytest.LogCaptureFixture):
    leak = block_of(200)
    bench.run(document(step()))
    assert warnings(caplog) == []
    del leak


def test_memory_growth_ignores_models_loaded_by_other_workflows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bench = Bench(tmp_path, growth_warning_bytes=10 * MB)
    shutil.copytree(SHAPES, tmp_path / "copy")
    one = bench.write(document(step()), "one")
    two = bench.write(document(step(model="copy")), "two")
    bench.run(one)
    bench.run(one)
    warnings(caplog)
    block = block_of(100)
    assert bench.run(two).success.loaded
    bench.run(one)
    assert warnings(caplog) == []
    del block


def test_memory_growth_forgets_least_recent_workflows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bench, growth = Bench(tmp_path), Growth(100 * MB)
    plan = make_plan(bench.write(document(step())), {}, paths=PathSettings())
    before = bench.runner.reports.last
    after = before.model_copy(update={"resident_bytes": before.resident_bytes + 200 * MB})

    def note(number: int, memory: MemoryUse) -> None:
        growth.note(plan.model_copy(update={"workflow_path": f"{number}.json"}), memory, ())

    for number in range(MAX_WORKFLOWS + 1):
        note(number, before)
    note(0, after)
    assert warnings(caplog) == []
    note(MAX_WORKFLOWS, after)
    assert len(warnings(caplog)) == 1


def test_memory_is_reported_after_every_run(bench: Bench):
    reports: list[MemoryReported] = []
    bench.when = lambda event: (
        reports.append(event) if isinstance(event, MemoryReported) else None
    )  # fmt: skip
    bench.run(document(step()))
    bench.run(document(step(sigmas=[1.0, 0.5])))
    titles = [[held.title for held in report.held] for report in reports]
    # Twice for each run: before its final event, and measured after it.
    assert len(titles) == 4
    assert titles[0] == titles[1] == titles[2] == titles[3]
    assert "unet of shapes (float32)" in titles[0]
    assert all(report.memory.resident_bytes > 0 for report in reports)
