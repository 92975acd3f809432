"""Preview maps learnt from decoded images."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image

from app.dialect.plan import PipelineStep
from app.protocol import Preview, StepProgress
from app.worker.loading.load import find_parts
from app.worker.previews import PreviewMaps, PreviewSource
from app.worker.steps.step_output import CallOutput
from models.shapes.scenes import draw, random_scene
from tests.engines import Finished
from tests.full_disk import full_disk
from tests.standins import StandIns
from tests.worker.bench import SHAPES, Bench, Document, document, step

Form = Callable[[torch.Tensor], torch.Tensor]
DECODER = "vae of shapes"


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Returns packed latents as in FLUX: squares of 2 x 2 positions are one token."""
    return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def as_film(latents: torch.Tensor) -> torch.Tensor:
    """Returns three frames, the first of which is the image; channels first, as in Wan."""
    return torch.stack([latents, torch.zeros_like(latents), torch.zeros_like(latents)], dim=2)


FORMS: dict[str, Form] = {"a picture": lambda latents: latents, "packed": packed, "a film": as_film}


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Image.Image, torch.Tensor]]:
    """Images of scenes, and their latents by the bundled model's trained autoencoder."""
    vae = AutoencoderKL.from_pretrained(SHAPES, subfolder="vae")
    rng = random.Random(0)
    found = []
    for _ in range(16):
        scene = draw(random_scene(rng))
        picture = Image.fromarray(scene.round().astype(np.uint8))
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            latents = vae.encode(values).latent_dist.mean * vae.config.scaling_factor
        found.append((picture, latents))
    return found


def sight_of(maps: PreviewMaps) -> PreviewSource:
    """Returns the preview source of a pipeline without a published map, at its next call."""
    preview_source = PreviewSource(maps.learnt(DECODER), DECODER, video_channels=4)
    preview_source.begin({"width": 128, "height": 128})
    return preview_source


def teach(maps: PreviewMaps, pairs: list[tuple[Image.Image, torch.Tensor]], form: Form) -> None:
    for picture, latents in pairs:
        preview_source = sight_of(maps)
        preview_source.knows(form(latents))
        film = [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
        maps.note(
            preview_source,
            [CallOutput({"frames": [film]} if form is as_film else {"images": [picture]})],
        )
        maps.learn()


@pytest.mark.parametrize("form", FORMS)
def test_preview_map_is_learnt_from_a_few_images(
    form: str, drawn: list[tuple[Image.Image, torch.Tensor]], tmp_path: Path
):
    maps = PreviewMaps(tmp_path)
    known, others = drawn[:12], drawn[12:]
    assert not sight_of(maps).knows(FORMS[form](others[0][1]))
    teach(maps, known, FORMS[form])
    # The learnt map survives a restart.
    preview_source = sight_of(PreviewMaps(tmp_path))
    seen, true = [], []
    for picture, latents in others:
        # A video shows its middle frame.
        shown = as_film(latents)[:, :, [1, 0, 2]] if form == "a film" else FORMS[form](latents)
        assert preview_source.knows(shown)
        jpeg, width, height = preview_source.render(shown)
        preview = Image.open(io.BytesIO(jpeg)).convert("RGB")
        assert (width, height) == preview.size
        seen.append(coarse(preview))
        true.append(coarse(picture))
    assert np.corrcoef(np.ravel(seen), np.ravel(true))[0, 1] > 0.9


def coarse(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((8, 8), Image.Resampling.BOX), float)


def test_preview_map_of_noise_is_not_used(tmp_path: Path):
    maps = PreviewMaps(tmp_path)
    generator = torch.Generator().manual_seed(0)
    noise = [
        (
            Image.effect_noise((128, 128), 80).convert("RGB"),
            torch.randn(1, 4, 16, 16, generator=generator),
        )
        for _ in range(3)
    ]
    teach(maps, noise, FORMS["a picture"])
    assert not sight_of(maps).knows(noise[0][1])


def test_preview_map_needs_enough_samples(
    drawn: list[tuple[Image.Image, torch.Tensor]], tmp_path: Path
):
    maps = PreviewMaps(tmp_path)
    picture, latents = drawn[0]
    teach(maps, [(picture, latents[..., :3, :3])], FORMS["a picture"])
    assert not sight_of(maps).knows(latents)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_preview_map_ignores_nan_latents(
    drawn: list[tuple[Image.Image, torch.Tensor]], tmp_path: Path, value: float
):
    maps = PreviewMaps(tmp_path)
    picture, latents = drawn[0]
    teach(maps, [(picture, torch.full_like(latents, value))], FORMS["a picture"])
    teach(maps, drawn, FORMS["a picture"])
    assert sight_of(maps).knows(latents)


def test_preview_map_ignores_unusable_images(
    drawn: list[tuple[Image.Image, torch.Tensor]], tmp_path: Path
):
    maps = PreviewMaps(tmp_path)
    preview_source = sight_of(maps)
    preview_source.knows(drawn[0][1])
    maps.note(preview_source, [CallOutput({"images": [np.full((8, 8, 3), "no number")]})])
    maps.learn()
    assert preview_source.latents is None
    assert list(tmp_path.iterdir()) == []


def test_preview_map_is_used_if_it_cannot_be_written(
    drawn: list[tuple[Image.Image, torch.Tensor]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    (tmp_path / "maps").write_text("no folder")
    maps = PreviewMaps(tmp_path / "maps" / "below")
    with caplog.at_level("WARNING"):
        teach(maps, drawn[:4], FORMS["a picture"])
    assert sight_of(maps).knows(drawn[0][1])
    assert "could not be saved" in caplog.text


def test_preview_map_is_used_on_a_full_disk(
    drawn: list[tuple[Image.Image, torch.Tensor]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    maps = PreviewMaps(tmp_path / "maps")
    with caplog.at_level("WARNING"), full_disk(max_bytes=10):
        teach(maps, drawn[:4], FORMS["a picture"])
    assert sight_of(maps).knows(drawn[0][1])
    assert "A preview map could not be saved" in caplog.text


def test_truncated_preview_map_is_learnt_again(
    drawn: list[tuple[Image.Image, torch.Tensor]], tmp_path: Path
):
    teach(PreviewMaps(tmp_path), drawn, FORMS["a picture"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    maps = PreviewMaps(tmp_path)
    assert not sight_of(maps).knows(drawn[0][1])
    teach(maps, drawn, FORMS["a picture"])
    assert sight_of(PreviewMaps(tmp_path)).knows(drawn[0][1])


def test_preview_map_of_unknown_family_is_used_in_second_run(stand_ins: StandIns, tmp_path: Path):
    bench = Bench(tmp_path, preview_interval_s=1e-9)
    bench.models = stand_ins.folder
    stand_ins.add("THUDM/CogVideoX-5b")
    arguments: dict[str, Any] = {
        "prompt": "a cat", "num_inference_steps": 2, "num_frames": 5, "width": 128, "height": 192,
    }  # fmt: skip
    film = document(
        {
            "name": "draw",
            "pipeline": {
                "configuration": {"component_type": "CogVideoXPipeline"},
                "from_pretrained_arguments": {"model_name": "THUDM/CogVideoX-5b"},
                "arguments": arguments,
            },
            "result": {"content_type": "video/mp4"},
        }
    )
    first = bench.run(film, previews=True)
    bench.runner.clean_up()
    second = bench.run(film, previews=True)
    for finished, shown in ((first, False), (second, True)):
        assert finished.success
        assert any(isinstance(event, Preview) for event in finished.events) == shown
        told = [event for event in finished.events if isinstance(event, StepProgress)]
        assert told
        assert all(event.without_preview != shown for event in told)


SD35 = "stabilityai/stable-diffusion-3.5-medium"


def sd3(model: str) -> Document:
    arguments = {"prompt": "a cat", "num_inference_steps": 2, "width": 256, "height": 256}
    return document(
        {
            "name": "draw",
            "pipeline": {
                "configuration": {"component_type": "StableDiffusion3Pipeline"},
                "from_pretrained_arguments": {"model_name": model},
                "arguments": arguments,
            },
            "result": {"content_type": "image/png"},
        }
    )


def has_previews(finished: Finished) -> bool:
    assert finished.success
    return any(isinstance(event, Preview) for event in finished.events)


def test_family_with_published_map_has_previews_in_first_run(stand_ins: StandIns, tmp_path: Path):
    bench = Bench(tmp_path, preview_interval_s=1e-9)
    bench.models = stand_ins.folder
    stand_ins.add(SD35)
    assert has_previews(bench.run(sd3(SD35), previews=True))


def test_model_with_other_latents_than_its_family_learns_its_map(bench: Bench, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(SHAPES, model, ignore=shutil.ignore_patterns("preview.json"))
    (planned,) = bench.plan(document(step(model=model))).steps
    assert isinstance(planned, PipelineStep)
    parts = find_parts(planned)
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    maps = PreviewMaps(tmp_path / "maps")
    assert not maps.preview_source(pipeline, parts).decoder
    # The bundled model has four latent channels; the map of this family is for sixteen.
    other = parts._replace(pipeline_class=StableDiffusion3Pipeline)
    assert maps.preview_source(pipeline, other).decoder
