"""Previews of images during denoising."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from app.protocol import Event, Preview, StepProgress
from app.worker.preview_factors import FACTORS
from app.worker.previews import MAX_EDGE_PX, LatentPreview, find_preview
from tests.engines import Finished
from tests.worker.bench import SHAPES, Bench, document, step

RED_GREEN = LatentPreview(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), bias=(0.0, 0.0, -1.0))
"""Two channels: the first is red, the second green; blue is off."""


def drawn(preview: LatentPreview, latents: torch.Tensor) -> np.ndarray:
    assert preview.knows(latents)
    jpeg, width, height = preview.render(latents)
    picture = Image.open(io.BytesIO(jpeg))
    assert (picture.format, picture.size) == ("JPEG", (width, height))
    return np.asarray(picture)


def test_preview_maps_channels_to_colours():
    latents = torch.full((1, 2, 8, 8), -1.0)
    latents[:, 0] = 1.0
    colour = drawn(RED_GREEN, latents).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colour, (255, 0, 0), atol=4)


def test_preview_clips_colours():
    latents = torch.stack([torch.full((8, 8), 50.0), torch.full((8, 8), -50.0)])[None]
    colour = drawn(RED_GREEN, latents).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colour, (255, 0, 0), atol=4)


def test_preview_shows_first_image_of_batch():
    latents = torch.full((2, 2, 8, 8), -1.0)
    latents[1] = 1.0
    assert drawn(RED_GREEN, latents).mean() < 4


@pytest.mark.parametrize(
    ("latent", "shown"),
    [((16, 16), (128, 128)), ((8, 16), (64, 128)), ((64, 64), (256, 256)), ((96, 64), (192, 128))],
)
def test_preview_size_is_limited(latent: tuple[int, int], shown: tuple[int, int]):
    picture = drawn(RED_GREEN, torch.zeros(1, 2, *latent))
    assert picture.shape == (*shown, 3)
    assert max(shown) <= MAX_EDGE_PX


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_preview_supports_half_precision(dtype: torch.dtype):
    assert drawn(RED_GREEN, torch.zeros(1, 2, 8, 8, dtype=dtype)).any()


@pytest.mark.parametrize("shape", [(1, 63, 2), (1, 64, 16), (1, 4, 8, 8), (1, 4, 3, 8, 8), (64, 2)])
def test_preview_ignores_unknown_latent_layouts(shape: tuple[int, ...]):
    assert not RED_GREEN.knows(torch.zeros(shape))


# --- which map -----------------------------------------------------------------------------------


def test_preview_check_does_not_synchronise_device():
    """Nothing can be copied from the meta device, which stands for one that is still computing."""
    for shape in ((1, 2, 8, 8), (1, 64, 2), (1, 64, 8), (1, 2, 3, 8, 8)):
        assert RED_GREEN.knows(torch.zeros(shape, device="meta"))


def test_preview_map_beside_model_overrides_family(tmp_path: Path):
    fit = {"latent_rgb_factors": [[0, 0, 0]] * 3, "latent_rgb_bias": [-1, -1, 1]}
    (tmp_path / "preview.json").write_text(json.dumps(fit))
    preview = find_preview(tmp_path, "FluxPipeline")
    assert preview is not None
    colour = drawn(preview, torch.randn(1, 3, 8, 8)).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colour, (0, 0, 255), atol=4)


@pytest.mark.parametrize(
    ("family", "known"),
    [("StableDiffusionPipeline", True), ("StableDiffusionInpaintPipeline", True),
     ("StableDiffusionXLImg2ImgPipeline", True), ("StableDiffusion3Pipeline", True),
     ("CogView4Pipeline", True), ("FluxPipeline", True), ("ZImagePipeline", True),
     ("Flux2Pipeline", False), ("WanPipeline", False)],
)  # fmt: skip
def test_preview_map_defaults_to_family(tmp_path: Path, family: str, known: bool):
    assert (find_preview(tmp_path, family) is not None) == known


def test_preview_maps_differ_by_family(tmp_path: Path):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = (find_preview(tmp_path, f"StableDiffusion{kind}Pipeline") for kind in ("", "XL"))
    assert one is not None
    assert other is not None
    assert not np.array_equal(drawn(one, latents), drawn(other, latents))


@pytest.mark.parametrize("family", FACTORS)
@pytest.mark.parametrize("colour", [(1, -1, -1), (-1, 1, -1), (-1, -1, 1)], ids=["r", "g", "b"])
def test_published_factors_give_latents_of_a_colour_that_colour(
    tmp_path: Path, family: str, colour: tuple[float, ...]
):
    preview = find_preview(tmp_path, f"{family}Pipeline")
    assert preview is not None
    wanted = torch.tensor(colour, dtype=torch.float32)
    latent = torch.linalg.pinv(torch.tensor(FACTORS[family]).T) @ wanted
    found = drawn(preview, latent.reshape(1, -1, 1, 1).expand(1, -1, 8, 8)).reshape(-1, 3)
    np.testing.assert_allclose(found.mean(axis=0), (np.array(colour) + 1) * 127.5, atol=12)


def test_published_factors_show_packed_latents_as_their_positions(tmp_path: Path):
    flux, zimage = (find_preview(tmp_path, f"{name}Pipeline") for name in ("Flux", "ZImage"))
    assert flux is not None
    assert zimage is not None
    latents = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    packed = FluxPipeline._pack_latents(latents, 1, 16, 8, 12)
    assert flux.knows(packed, (96, 64))
    assert flux.render(packed, (96, 64)) == zimage.render(latents)


# --- in a run ------------------------------------------------------------------------------------


def shown(finished: Finished) -> list[Preview]:
    assert finished.success
    return [event for event in finished.events if isinstance(event, Preview)]


@pytest.fixture
def eager(tmp_path: Path) -> Bench:
    """A runner that makes a preview of every step."""
    return Bench(tmp_path, preview_interval_s=1e-9)


def test_watched_run_sends_preview_for_every_step(eager: Bench):
    previews = shown(eager.run(document(step(num_inference_steps=4)), previews=True))
    assert len(previews) == 4
    assert previews[0].jpeg != previews[-1].jpeg


def test_unwatched_run_sends_no_previews(eager: Bench):
    assert shown(eager.run(document(), previews=False)) == []


def test_previews_can_be_toggled_during_a_run(eager: Bench):
    watched = eager.runner.signals.watched

    def when(event: Event) -> None:
        if isinstance(event, StepProgress) and event.done == 2:
            watched.add(event.run_id)
        elif isinstance(event, StepProgress) and event.done == 4:
            watched.discard(event.run_id)

    eager.when = when
    finished = eager.run(document(step(num_inference_steps=5)))
    assert len(shown(finished)) == 2


def test_preview_interval_is_respected(tmp_path: Path):
    calm = Bench(tmp_path, preview_interval_s=3600)
    assert len(shown(calm.run(document(step(num_inference_steps=4)), previews=True))) <= 1


def test_previews_do_not_change_the_result(eager: Bench):
    watched, alone = (eager.run(document(), previews=previews) for previews in (True, False))
    first, second = (Path(run.results[0].path) for run in (watched, alone))
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))


def test_bundled_model_has_a_preview_map():
    preview = find_preview(Path(SHAPES), "StableDiffusionPipeline")
    assert preview is not None
    assert drawn(preview, torch.zeros(1, 4, 16, 16)).shape == (128, 128, 3)
