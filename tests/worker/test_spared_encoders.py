"""A text encoder whose prompt is memoised is evicted first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from app.worker.residency import Entry, choose_evictions
from tests.doubles.accelerator import Accelerator
from tests.worker.bench import SHAPES, Bench, Document, document, step

MODEL_BYTES = 22_280_428
"""Weights of the bundled model; its text encoder has 1.6 MB of them."""
ROOM_BYTES = 2 * MODEL_BYTES - 1_000_000


def entry(key: str, **fields: Any) -> Entry:
    return Entry(key, f"{key} of test", object(), 10, load_s=1.0, **fields)


def test_memoised_encoder_is_evicted_first():
    held = [entry("old"), entry("encoder", last_used=90, memoised=True), entry("new", last_used=80)]
    assert choose_evictions(held, 15, "device", 100.0) == ["encoder", "old"]


def test_memoised_encoder_needed_later_is_not_evicted_first():
    held = [entry("encoder", memoised=True), entry("idle", last_used=90)]
    assert choose_evictions(held, 5, "device", 100.0, ["encoder"]) == ["idle"]


# --- on a device with memory of its own ----------------------------------------------------------


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator()


@pytest.fixture
def bench(tmp_path: Path, accelerator: Accelerator) -> Bench:
    """A bench whose device has room for two models less one text encoder."""
    for name in ("a", "b"):
        shutil.copytree(SHAPES, tmp_path / name)
    return Bench(tmp_path, accelerator, device_budget=ROOM_BYTES, ram_budget=4 * MODEL_BYTES)


def drawing(prompt: str = "a red circle", model: str = "a", **more: Any) -> Document:
    return document(step(model=model, prompt=prompt, width=64, height=64, **more), id=model)


def place(bench: Bench, component: str, model: str = "a") -> str:
    title = f"{component} of {model} (float32)"
    return next(e.place for e in bench.runner.residency.entries if e.title == title)


def test_memoised_encoder_is_chosen_first(bench: Bench, accelerator: Accelerator):
    bench.run(drawing())
    accelerator.moves.clear()
    bench.run(bench.write(drawing(model="b"), "b"))
    assert [move for move in accelerator.moves if move[1] == "ram"] == [("CLIPTextModel", "ram")]
    assert (place(bench, "text_encoder"), place(bench, "unet")) == ("ram", "device")
