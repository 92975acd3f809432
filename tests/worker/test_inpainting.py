"""Inpainting keeps the picture's shape, and its own pixels outside the mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.models.asked_size import redrawn_size
from app.planning.planner import make_plan
from app.protocol import Noticed
from app.settings import MediaLimits, PathSettings
from app.worker.steps.inpainting import blend
from tests.engines import Finished
from tests.worker.bench import Bench, document, step

BOX = (40, 24, 60, 44)
"""The masked part, in pixels."""


def picture(size: tuple[int, int]) -> Image.Image:
    """Returns an image in which every pixel differs from its neighbours."""
    shades = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(shades)


def filled(
    bench: Bench,
    size: tuple[int, int] = (128, 128),
    limits: MediaLimits | None = None,
    **given: Any,
) -> tuple[np.ndarray, np.ndarray, Finished]:
    """Returns the picture, its inpainted version, and the run."""
    own = picture(size)
    own.save(bench.folder / "own.png")
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle(BOX, fill=255)
    mask.save(bench.folder / "mask.png")
    arguments = {"image": "own.png", "mask_image": "mask.png", "strength": 1.0, **given}
    path = bench.write(document(step(kind="Inpaint", **arguments)))
    paths = PathSettings(media=(bench.folder,), limits=limits or MediaLimits())
    finished = bench.run(make_plan(path, {}, paths=paths, seed=7))
    (result,) = finished.results
    made = Image.open(Path(result.path)).convert("RGB")
    return np.asarray(own), np.asarray(made), finished


def outside(size: tuple[int, int]) -> np.ndarray:
    kept = np.ones((size[1], size[0]), bool)
    left, top, right, bottom = BOX
    kept[top : bottom + 1, left : right + 1] = False
    return kept


@pytest.mark.parametrize("size", [(128, 128), (256, 128), (72, 200), (101, 67)])
def test_pixels_outside_the_mask_and_the_shape_are_the_pictures_own(
    bench: Bench, size: tuple[int, int]
):
    own, made, _ = filled(bench, size)
    kept = outside(size)
    assert made.shape == own.shape
    assert np.array_equal(made[kept], own[kept])
    assert np.abs(made[~kept].astype(int) - own[~kept]).mean() > 20


def test_given_size_is_drawn_with_the_pixels_of_the_picture_in_that_size(bench: Bench):
    _, made, _ = filled(bench, (128, 128), width=64, height=64)
    own = np.asarray(picture((128, 128)).resize((64, 64), Image.Resampling.LANCZOS))
    assert made.shape == own.shape
    assert np.array_equal(made[:8], own[:8])


def test_each_picture_of_a_batch_keeps_its_own_pixels(bench: Bench):
    own = picture((128, 128))
    own.save(bench.folder / "own.png")
    Image.new("L", (128, 128)).save(bench.folder / "mask.png")
    finished = bench.run(
        document(
            step(kind="Inpaint", image="own.png", mask_image="mask.png", num_images_per_prompt=2)
        )
    )
    assert len(finished.results) == 2
    for result in finished.results:
        assert np.array_equal(np.asarray(Image.open(result.path)), np.asarray(own))


def test_setting_leaves_the_pictures_as_the_model_draws_them(bench: Bench):
    own, made, _ = filled(bench, limits=MediaLimits(keep_unmasked=False))
    kept = outside((128, 128))
    assert not np.array_equal(made[kept], own[kept])
    _, hard, _ = filled(bench, limits=MediaLimits(mask_seam_px=0))
    assert np.array_equal(made[~kept], hard[~kept])


def test_seam_lies_inside_the_mask_and_has_the_width_of_the_setting():
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((20, 0, 63, 63), fill=255)
    row = np.asarray(blend(mask, 4))[32]
    assert list(row[:20]) == [0] * 20
    assert list(row[20:25]) == [51, 102, 153, 204, 255]
    assert set(np.asarray(blend(mask, 0))[32]) == {0, 255}


def test_mask_of_everything_has_no_seam():
    assert blend(Image.new("L", (16, 16), 255), 4).getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((512, 512), (512, 512)),
        ((768, 512), (768, 512)),
        ((400, 300), (592, 448)),  # enlarged to the area of the model
        ((4000, 3000), (880, 672)),  # reduced to 2.25 times that area
        ((3000, 100), (3008, 96)),
    ],
)
def test_drawn_size_keeps_the_shape_within_what_the_model_draws_well(
    size: tuple[int, int], drawn: tuple[int, int]
):
    assert redrawn_size(size, 512 * 512, 16) == drawn


def test_size_that_differs_from_the_pictures_is_told(bench: Bench):
    *_, finished = filled(bench, (101, 67))
    (notice,) = [event.sentence for event in finished.events if isinstance(event, Noticed)]
    assert notice == (
        "The picture of 101 x 67 pixels is redrawn in a size that fits the model: 160 x 112."
    )
    *_, finished = filled(bench, (128, 128))
    assert not [event for event in finished.events if isinstance(event, Noticed)]


def test_picture_that_the_pipeline_crops_is_pasted_by_the_pipeline(bench: Bench):
    own, made, _ = filled(bench, padding_mask_crop=8)
    assert made.shape == own.shape
    assert np.array_equal(made[-8:], own[-8:])
