"""Identical requests are answered from the files of the earlier run."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import UnknownRun
from app.protocol import ResultSaved, RunQueued, RunStarted, StartRun
from tests.engine.bench import Bench

SEEDS = itertools.count(7, 2)


@pytest.fixture
def seed() -> int:
    """A seed that no other test uses, nor the next one."""
    return next(SEEDS)


def test_identical_request_is_answered_from_earlier_files(bench: Bench, seed: int):
    first = bench.run("save a.png", "save b.png", "return a text", seed=seed)
    second = bench.run("save a.png", "save b.png", "return a text", seed=seed)
    assert second.run_id != first.run_id
    assert second.success.made_at == first.success.time
    assert (second.success.outputs, second.success.loaded) == (("a text",), ())
    assert [result.path for result in second.results] == [result.path for result in first.results]
    assert {event.run_id for event in second.events} == {second.run_id}
    assert [type(event) for event in second.events[:2]] == [RunQueued, RunStarted]
    assert bench.sent == [first.run_id]


def test_cached_answer_does_not_wait_for_other_runs(bench: Bench, seed: int):
    first = bench.run("save a.png", seed=seed)
    bench.underway(f"wait for {bench.gate()}")
    assert bench.run("save a.png", seed=seed).success.made_at == first.success.time


def test_cached_answer_keeps_original_time(bench: Bench, seed: int):
    first, *others = (bench.run("save a.png", seed=seed) for _ in range(3))
    assert first.success.made_at is None
    assert [run.success.made_at for run in others] == [first.success.time] * 2


@pytest.mark.parametrize(
    ("script", "after", "fresh"),
    [("save a.png", 0, True), ("save a.png", 1, False), ("save b.png", 0, False)],
    ids=["fresh", "another seed", "other inputs"],
)
def test_different_request_runs(bench: Bench, seed: int, script: str, after: int, fresh: bool):
    bench.run("save a.png", seed=seed)
    second = bench.run(script, seed=seed + after, fresh=fresh)
    assert second.success.made_at is None
    assert bench.sent[1:] == [second.run_id]


def test_requests_with_drawn_seeds_are_never_identical(bench: Bench):
    runs = [bench.run("save a.png").run_id for _ in range(2)]
    assert bench.sent == runs


def test_request_with_missing_files_runs_again(bench: Bench, seed: int):
    first = bench.run("save a.png", "save b.png", seed=seed)
    Path(first.results[1].path).unlink()
    second = bench.run("save a.png", "save b.png", seed=seed)
    assert second.success.made_at is None
    assert bench.run("save a.png", "save b.png", seed=seed).success.made_at == second.success.time


def edit(picture: Path) -> None:
    """Changes the content, but neither length nor modification time."""
    before = picture.stat()
    picture.write_bytes(picture.read_bytes()[::-1])
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES: dict[str, Callable[[ResultSaved], object]] = {
    "emptied": lambda saved: Path(saved.path).write_bytes(b""),
    "cut off": lambda saved: os.truncate(saved.path, 3),
    "edited": lambda saved: edit(Path(saved.path)),
    "record gone": lambda saved: Path(saved.sidecar).unlink(),
    "record edited": lambda saved: edit(Path(saved.sidecar)),
    "folder gone": lambda saved: shutil.rmtree(Path(saved.path).parent),
    "folder in its place": lambda saved: (
        Path(saved.path).unlink(),
        Path(saved.path).mkdir(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_result_is_not_reused(
    bench: Bench, seed: int, damage: Callable[[ResultSaved], object]
):
    first = bench.run("save a.png", seed=seed)
    damage(first.results[0])
    second = bench.run("save a.png", seed=seed)
    assert second.success.made_at is None
    assert Path(second.results[0].path).read_bytes() == b"a picture"
    assert bench.run("save a.png", seed=seed).success.made_at == second.success.time


def test_result_edited_before_the_end_is_not_reused(bench: Bench, seed: int):
    gate = bench.gate()
    script = ("save a.png", f"wait for {gate}")
    run_id = bench.submit(*script, seed=seed)
    edit(Path(bench.until(run_id, ResultSaved).path))
    gate.touch()
    assert bench.finish(run_id).success
    assert bench.run(*script, seed=seed).success.made_at is None


def test_failed_run_is_not_reused(bench: Bench, seed: int):
    for _ in range(2):
        assert bench.run("save a.png", "fail no paper", seed=seed).terminal.type == "run_failed"
    assert len(bench.sent) == 2


def test_run_again_uses_another_seed(bench: Bench, seed: int):
    first = bench.run("save a.png", seed=seed)
    again = bench.finish(bench.engine.run_again(first.run_id, seed=seed + 1, owner="anna"))
    assert again.success.made_at is None
    one, other = bench.engine.runs()[1::-1]
    assert (one.workflow, one.seed + 1) == (other.workflow, other.seed)
    assert bench.engine.runs("anna") == [other]
    with pytest.raises(UnknownRun):
        bench.engine.run_again("20260101-000000-abcdef", seed=seed)


def test_run_with_step_seeds_takes_no_seed(bench: Bench, seed: int):
    def takes_seed(changes: dict[str, int]) -> bool:
        inputs = {"prompt": "nothing"}
        run_id = bench.engine.submit(bench.workflow, inputs, seed=seed, changes=changes)
        assert bench.finish(run_id).success
        return bench.engine.runs()[0].takes_seed

    assert takes_seed({})
    assert not takes_seed({"/steps/0/seed": 1})


def test_fresh_run_ignores_worker_caches(bench: Bench, seed: int):
    for fresh in (False, True):
        bench.run("save a.png", seed=seed, fresh=fresh)
    started = [command for command in bench.heard.commands if isinstance(command, StartRun)]
    assert [command.fresh for command in started] == [False, True]


def test_request_with_changed_model_runs_again(bench: Bench, seed: int):
    bench.run("save a.png", seed=seed)
    model = bench.workflow.parent.parent / "models" / "shapes" / "unet.safetensors"
    model.write_bytes(b"new weights")
    try:
        assert bench.run("save a.png", seed=seed).success.made_at is None
    finally:
        model.unlink()
