"""Inpainting keeps the picture's shape, and its own pixels outside the mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.models.asked_size import redrawn_size
from app.planning.planner import make_plan
from app.settings import MediaLimits, PathSettings
from app.worker.steps.inpainting import blend, with_own_pixels
from app.worker.steps.step_output import CallOutput
from tests.engines import Finished, notices
from tests.standins import build_flux, build_qwen_image, build_sd3, build_sdxl
from tests.worker.bench import Bench, document, pixels, step

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

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
    (notice,) = notices(finished)
    assert notice == (
        "The picture of 101 x 67 pixels is redrawn in a size that fits the model: 160 x 112."
    )
    *_, finished = filled(bench, (128, 128))
    assert not notices(finished)


def test_picture_that_the_pipeline_crops_is_pasted_by_the_pipeline(bench: Bench):
    own, made, _ = filled(bench, padding_mask_crop=8)
    assert made.shape == own.shape
    assert np.array_equal(made[-8:], own[-8:])


# --- other pipelines, lists, and masks that are not as one thinks ---------------------------------


BUILT: dict[str, tuple[str, Callable[..., None], dict[str, Any]]] = {
    "SDXL": ("StableDiffusionXLInpaintPipeline", build_sdxl, {}),
    "SD 3": ("StableDiffusion3InpaintPipeline", build_sd3, {}),
    "FLUX": ("FluxInpaintPipeline", build_flux, {}),
    "Qwen-Image": ("QwenImageInpaintPipeline", build_qwen_image, {}),
    "modular SDXL": ("StableDiffusionXLModularPipeline", build_sdxl, {}),
}  # fmt: skip


@pytest.mark.parametrize("family", BUILT)
def test_pixels_outside_the_mask_are_the_pictures_own_in_each_family(bench: Bench, family: str):
    kind, build, more = BUILT[family]
    build(bench.folder / "model")
    own = picture((96, 64))
    own.save(bench.folder / "own.png")
    mask = Image.new("L", own.size)
    ImageDraw.Draw(mask).rectangle(BOX, fill=255)
    mask.save(bench.folder / "mask.png")
    asked = step(model=bench.folder / "model", image="own.png", mask_image="mask.png",
                 strength=1.0, **more)  # fmt: skip
    asked["pipeline"]["configuration"]["component_type"] = kind
    (made,) = pixels(bench.run(document(asked)))
    kept = outside(own.size)
    assert made.shape == np.asarray(own).shape
    assert np.array_equal(made[kept], np.asarray(own)[kept])
    assert not np.array_equal(made[~kept], np.asarray(own)[~kept])


@pytest.mark.parametrize("masks", [["mask.png"], "mask.png", ["mask.png", "other.png"]])
def test_each_picture_of_a_list_keeps_its_own_pixels(bench: Bench, masks: str | list[str]):
    owns = [picture((128, 128)), Image.new("RGB", (128, 128), "orange")]
    for name, own in zip(("own.png", "two.png"), owns, strict=True):
        own.save(bench.folder / name)
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle(BOX, fill=255)
    mask.save(bench.folder / "mask.png")
    Image.new("L", (128, 128)).save(bench.folder / "other.png")
    count = 1 if masks == ["mask.png"] else 2
    finished = bench.run(
        document(
            step(kind="Inpaint", image=["own.png", "two.png"][:count], mask_image=masks,
                 prompt=["a red circle"] * count)
        )
    )  # fmt: skip
    made = pixels(finished)
    kept = outside((128, 128))
    assert len(made) == count
    for drawn, own in zip(made, owns, strict=False):
        assert np.array_equal(drawn[kept], np.asarray(own)[kept])
    if isinstance(masks, list) and count == 2:
        assert np.array_equal(made[1], np.asarray(owns[1]))


@pytest.mark.parametrize(
    ("colour", "on"), [("black", "black"), ("red", "black"), ("#505050", "black")]
)
def test_mask_without_white_pixels_is_told(bench: Bench, colour: str, on: str):
    picture((128, 128)).save(bench.folder / "own.png")
    mask = Image.new("RGB", (128, 128), on)
    ImageDraw.Draw(mask).rectangle(BOX, fill=colour)
    mask.save(bench.folder / "mask.png")
    asked = step(kind="Inpaint", image="own.png", mask_image="mask.png")
    assert notices(bench.run(document(asked))) == [
        "No pixel of the mask is white: nothing is redrawn."
    ]


@pytest.mark.parametrize(
    ("size", "is_told"), [((256, 128), True), ((64, 128), True), ((64, 64), False),
                          ((512, 512), False), ((129, 128), False)]
)  # fmt: skip
def test_mask_of_another_shape_is_told(bench: Bench, size: tuple[int, int], is_told: bool):
    picture((128, 128)).save(bench.folder / "own.png")
    Image.new("L", size, 255).save(bench.folder / "mask.png")
    asked = step(kind="Inpaint", image="own.png", mask_image="mask.png")
    width, height = size
    told = [f"The mask of {width} x {height} pixels is stretched over the picture of 128 x 128."]
    assert notices(bench.run(document(asked))) == told * is_told


def test_mask_of_a_task_is_taken(bench: Bench):
    """Its picture has another size than the mask's file."""
    picture((64, 128)).save(bench.folder / "own.png")
    grown = {"name": "grow", "task": {"command": "add_border_and_mask",
             "arguments": {"image": "own.png", "zoom_all": 2.0}}}  # fmt: skip
    asked = step(kind="Inpaint", image="previous_result:grow.bordered_image",
                 mask_image="previous_result:grow.mask")  # fmt: skip
    finished = bench.run(document(grown, asked))
    (made,) = pixels(finished)
    assert made.shape[:2] == (256, 128)
    assert not [each for each in notices(finished) if "mask" in each]


def test_mask_that_keeps_its_white_pixels_is_not_turned_round(bench: Bench):
    """RePaint redraws where its mask is black."""
    own, mask = picture((64, 64)), Image.new("L", (64, 64))
    made = Image.new("RGB", (64, 64), "red")
    arguments = {"image": own, "mask_image": mask}
    output = CallOutput({"images": [made]})
    (kept,) = with_own_pixels([output], arguments, {}, 4, "RePaintPipeline")
    assert kept["images"] == [made]


@pytest.mark.parametrize(("named", "mask"), [("image", "mask"), ("control_image", "control_mask")])
def test_pictures_and_masks_of_other_names_count(named: str, mask: str):
    """BriaFiboEditPipeline's, and those of ControlNets that inpaint."""
    own = picture((64, 64))
    arguments = {named: own, mask: Image.new("L", (64, 64))}
    output = CallOutput({"images": [Image.new("RGB", (64, 64), "red")]})
    (kept,) = with_own_pixels([output], arguments, {}, 4)
    assert kept["images"][0].tobytes() == own.tobytes()
