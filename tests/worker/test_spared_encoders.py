"""With a known prompt no text encoder is called: it leaves first, and need not come back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from app.worker.residency import Entry, choose_evictions
from tests.doubles.accelerator import Accelerator
from tests.engines import Finished
from tests.standins import build_wan
from tests.worker.bench import SHAPES, Bench, Document, document, same, step
from tests.worker.encoding import encoded
from tests.worker.test_memo import shown

MODEL_BYTES = 22_280_428
"""Weights of the bundled model; 1.6 MB are its text encoder's."""
ROOM_BYTES = 2 * MODEL_BYTES - 1_000_000


def entry(key: str, **fields: Any) -> Entry:
    return Entry(key, f"{key} of test", object(), 10, load_s=1.0, **fields)


def test_an_encoder_whose_prompt_is_remembered_leaves_before_all_that_is_idle():
    held = [entry("old"), entry("encoder", last_used=90, memoised=True), entry("new", last_used=80)]
    assert choose_evictions(held, 15, "device", 100.0) == ["encoder", "old"]


def test_but_not_when_a_later_step_of_the_run_may_have_another_prompt_for_it():
    held = [entry("encoder", memoised=True), entry("idle", last_used=90)]
    assert choose_evictions(held, 5, "device", 100.0, ["encoder"]) == ["idle"]


# --- on a device with memory of its own ----------------------------------------------------------


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator()


@pytest.fixture
def bench(tmp_path: Path, accelerator: Accelerator) -> Bench:
    """Room on the device for two models but for a text encoder."""
    for name in ("a", "b"):
        shutil.copytree(SHAPES, tmp_path / name)
    return Bench(tmp_path, accelerator, device_budget=ROOM_BYTES, ram_budget=4 * MODEL_BYTES)


def drawing(prompt: str = "a red circle", model: str = "a", **more: Any) -> Document:
    return document(step(model=model, prompt=prompt, width=64, height=64, **more), id=model)


def place(bench: Bench, component: str, model: str = "a") -> str:
    title = f"{component} of {model} (float32)"
    return next(e.place for e in bench.runner.residency.entries if e.title == title)


def test_the_encoder_leaves_first_and_a_known_prompt_leaves_it_where_it_is(
    bench: Bench, accelerator: Accelerator
):
    first = bench.run(drawing())
    accelerator.moves.clear()
    bench.run(bench.write(drawing(model="b"), "b"))
    assert [move for move in accelerator.moves if move[1] == "ram"] == [("CLIPTextModel", "ram")]
    accelerator.moves.clear()
    again = encoded(bench, drawing())
    assert again.calls == 0
    assert accelerator.moves == []
    assert (place(bench, "text_encoder"), place(bench, "unet")) == ("ram", "device")
    assert same(first, again.finished)


def test_it_comes_when_it_is_called_and_computes_as_ever(
    bench: Bench, accelerator: Accelerator, tmp_path: Path
):
    bench.run(drawing())
    bench.run(bench.write(drawing(model="b"), "b"))
    bench.run(drawing())
    assert place(bench, "text_encoder") == "ram"
    accelerator.moves.clear()
    other = encoded(bench, drawing("a blue star"))
    assert other.calls > 0
    assert accelerator.moves == [("CLIPTextModel", "ram"), ("CLIPTextModel", "device")]
    assert (place(bench, "text_encoder", "b"), place(bench, "unet", "b")) == ("ram", "device")
    assert place(bench, "text_encoder") == "device"
    assert bench.runner.residency.bytes_in("device") <= ROOM_BYTES
    assert same(other.finished, elsewhere(tmp_path, drawing("a blue star")))
    encoder = next(
        e.component
        for e in bench.runner.residency.entries
        if e.title.startswith("text_encoder of a")
    )
    assert not hasattr(encoder, "_hf_hook")
    assert not any(weight.is_inference() for weight in encoder.parameters())


def elsewhere(tmp_path: Path, request: Document) -> Finished:
    """The same request where nothing is remembered and nothing moves."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copytree(tmp_path / "a", folder / "a")
    return Bench(folder).run(request)


def test_without_a_memory_for_prompts_the_encoder_is_brought_as_the_rest(
    tmp_path: Path, bench: Bench
):
    """All of a model has to leave for the other."""
    forgetful = Bench(
        tmp_path, accelerator := Accelerator(), device_budget=MODEL_BYTES,
        ram_budget=4 * MODEL_BYTES, prompt_memo_bytes=0,
    )  # fmt: skip
    forgetful.run(drawing())
    forgetful.run(bench.write(drawing(model="b"), "b"))
    accelerator.moves.clear()
    forgetful.run(drawing())
    assert ("CLIPTextModel", "device") in accelerator.moves


@pytest.fixture
def film(tmp_path: Path) -> Document:
    """A step of a pipeline that names its text encoder before all its other modules."""
    build_wan(tmp_path / "wan")
    filming = step(model="wan", width=32, height=32, num_frames=1, saved_as="video/mp4")
    filming["pipeline"]["configuration"]["component_type"] = "WanPipeline"
    return document(filming)


def test_another_family_draws_the_same_without_its_encoder(tmp_path: Path, film: Document):
    bench = Bench(tmp_path, Accelerator(), ram_budget=10 * MODEL_BYTES)
    first = bench.run(film)
    encoder = next(e for e in bench.runner.residency.entries if e.title.startswith("text_encoder"))
    bench.runner.residency.move([encoder.key], "ram", reason="the test wants it")
    again = encoded(bench, film)
    assert (again.calls, encoder.place) == (0, "ram")
    assert shown(first.results[0].path) == shown(again.finished.results[0].path)
