"""The task restore_faces: OpenCV's own detector with a stand-in's weights, and a stand-in of
spandrel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from app.dialect.plan import Plan, TaskStep
from app.errors import BadRequest
from app.models.resolve import component_specs
from app.models.specs import Selection
from app.protocol import RunFailed
from app.tasks.faces import YUNET, YUNET_FILE
from tests.doubles.installed import count_as_installed
from tests.standins.yunet import build_face_detector
from tests.worker.bench import Bench, Document, document, pixels, same

PACKAGES = Path(__file__).resolve().parents[2] / "doubles" / "packages"
SIZE = (640, 320)
NOSES = ((160, 160), (480, 80))
"""Corners of the blocks that the detector takes for noses: x, y."""


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    count_as_installed(monkeypatch, "torchvision")
    monkeypatch.syspath_prepend(str(PACKAGES))
    yield
    sys.modules.pop("spandrel", None)


@pytest.fixture
def mending(bench: Bench) -> Bench:
    """A bench with the models, an image with two faces `seen.png`, and one without `empty.png`."""
    build_face_detector(bench.models / YUNET / YUNET_FILE)
    save_file({"added": torch.full((1,), 0.2)}, bench.folder / "mend.safetensors")
    save_file({"added": torch.zeros(1)}, bench.folder / "idle.safetensors")
    Image.fromarray(ground()).save(bench.folder / "empty.png")
    Image.fromarray(seen()).save(bench.folder / "seen.png")
    return bench


def ground() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 180, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def seen() -> np.ndarray:
    image = ground()
    for x, y in NOSES:
        image[y : y + 8, x : x + 8] = 255
    return image


def mend(model: str = "mend.safetensors", image: str = "seen.png", **arguments: Any) -> Document:
    # Where nothing is resized the stand-in finds its blocks.
    given = {"image": image, "model_name": model, "detection_resize": SIZE[1], **arguments}
    task = {"command": "restore_faces", "arguments": given}
    return {"name": "do", "task": task, "result": {"content_type": "image/png"}}


def made(bench: Bench, **arguments: Any) -> np.ndarray:
    return pixels(bench.run(document(mend(**arguments))))[0].astype(int)


def test_network_that_changes_nothing_returns_the_image(mending: Bench):
    assert np.array_equal(made(mending, model="idle.safetensors"), seen())


def test_faces_are_mended_and_the_rest_stays(mending: Bench):
    cold, warm = (mending.run(document(mend())) for _ in range(2))
    added = pixels(cold)[0].astype(int) - seen()
    for x, y in NOSES:
        around = added[y - 8 : y + 16, x - 16 : x + 24]
        assert 45 <= np.median(around) <= 52
    far = np.ones(added.shape[:2], bool)
    for x, y in NOSES:
        far[max(y - 80, 0) : y + 88, x - 80 : x + 88] = False
    assert not added[far].any()
    assert cold.success.loaded == (
        "model of mend.safetensors (float32)",
        "detector of face_detection_yunet (float32)",
    )
    assert warm.success.loaded == ()
    assert same(cold, warm)


def test_image_without_faces_stays(mending: Bench):
    assert np.array_equal(made(mending, image="empty.png"), ground())


def test_face_in_the_middle_may_be_the_only_one(mending: Bench):
    added = made(mending, only_center_face=True) - seen()
    (middle_x, middle_y), (other_x, other_y) = NOSES
    assert added[middle_y + 10, middle_x].any()
    assert not added[other_y - 40 : other_y + 40, other_x - 40 : other_x + 40].any()


def test_faces_with_near_eyes_stay(mending: Bench):
    # The eyes that the stand-in finds are 32 pixels apart.
    assert np.array_equal(made(mending, eye_dist_threshold=33), seen())
    assert not np.array_equal(made(mending, eye_dist_threshold=31), seen())


def test_image_is_enlarged_before_faces_are_pasted(mending: Bench):
    idle = made(mending, model="idle.safetensors", upscale_factor=2)
    added = made(mending, upscale_factor=2) - idle
    assert idle.shape == (2 * SIZE[1], 2 * SIZE[0], 3)
    x, y = NOSES[0]
    assert 45 <= np.median(added[2 * y - 16 : 2 * y + 32, 2 * x - 32 : 2 * x + 48]) <= 52
    assert not added[: 2 * y - 170, : 2 * x].any()


def test_faces_are_pasted_into_another_upscaled_image(mending: Bench):
    Image.new("RGB", (300, 150), (20, 40, 60)).save(mending.folder / "large.png")
    step = mend(model="idle.safetensors", upscale_factor=2)
    step["task"]["arguments"]["upsample_img"] = {"location": "large.png", "media_type": "image"}
    found = pixels(mending.run(document(step)))[0]
    assert found.shape == (2 * SIZE[1], 2 * SIZE[0], 3)
    assert (found[:20, :20] == (20, 40, 60)).all()
    # The face is that of the image, not of the other one.
    x, y = NOSES[0]
    assert (found[2 * y + 4 : 2 * y + 12, 2 * x + 4 : 2 * x + 12] > 200).all()


def test_parser_is_told_not_to_be_used(mending: Bench):
    (warning,) = mending.plan(document(mend(use_parse=True))).warnings
    assert warning.startswith("steps[0].task.arguments.use_parse: No parser of faces is loaded")
    assert mending.plan(document(mend(use_parse=False))).warnings == ()


def test_detector_needs_no_pickles_and_only_its_file(mending: Bench):
    plan: Plan = mending.plan(document(mend()))
    (step,) = plan.steps
    assert isinstance(step, TaskStep)
    hub = step.components["detector"].source.model_copy(update={"folder": None})
    block = step.components["detector"].model_copy(update={"source": hub})
    asked: list[Selection] = []

    def find(_source: Any, wanted: Selection) -> Path:
        asked.append(wanted)
        return mending.models / YUNET

    component_specs(step.model_copy(update={"components": {"detector": block}}), find)
    files = [YUNET_FILE, "face_detection_yunet_2023mar_int8.onnx", "README.md"]
    assert [wanted.of(files) for wanted in asked] == [[YUNET_FILE]]


def test_missing_or_wrong_models_are_refused_in_a_sentence(mending: Bench):
    (mending.models / YUNET / YUNET_FILE).unlink()
    with pytest.raises(BadRequest, match=f"'{YUNET}' has no file '{YUNET_FILE}'"):
        mending.plan(document(mend()))
    (mending.models / YUNET / YUNET_FILE).write_bytes(b"<!DOCTYPE html>")
    broken = mending.run(document(mend())).terminal
    assert isinstance(broken, RunFailed)
    assert broken.error.message == f"The detector of '{YUNET}' could not be loaded."
    build_face_detector(mending.models / YUNET / YUNET_FILE)
    save_file({"weight": torch.ones(1)}, mending.folder / "twice.safetensors")
    wrong = mending.run(document(mend("twice.safetensors"))).terminal
    assert isinstance(wrong, RunFailed)
    assert wrong.error.message == "'twice.safetensors' is no network for faces."
