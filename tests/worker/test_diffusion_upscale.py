"""The task diffusion_upscale, which stands for a pipeline call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.dialect.plan import PipelineStep
from app.protocol import StepProgress
from tests.doubles.accelerator import Accelerator
from tests.standins.upscalers import build_latent_upscaler, build_upscaler
from tests.worker.bench import Bench, Document, document, pixels, same

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def upscalers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upscalers")
    build_upscaler(folder / "stabilityai" / "stable-diffusion-x4-upscaler")
    build_latent_upscaler(folder / "stabilityai" / "sd-x2-latent-upscaler")
    return folder


@pytest.fixture
def upscaling(bench: Bench, upscalers: Path) -> Bench:
    bench.models = upscalers
    Image.effect_noise((64, 64), 80).convert("RGB").save(bench.folder / "small.png")
    return bench


def larger(**arguments: Any) -> Document:
    given = {"image": "small.png", "num_inference_steps": 2, **arguments}
    task = {"command": "diffusion_upscale", "arguments": given}
    return {"name": "grow", "task": task, "result": {"content_type": "image/png"}}


@pytest.mark.parametrize(("mode", "times"), [("x4", 4), ("x2", 2)])
def test_diffusion_upscale_is_equal_warm_and_cold(upscaling: Bench, mode: str, times: int):
    wanted = document(larger(mode=mode, prompt="a cat"))
    cold, warm = upscaling.run(wanted), upscaling.run(wanted)
    assert pixels(cold)[0].shape == (64 * times, 64 * times, 3)
    assert warm.success.loaded == ()
    assert same(cold, warm)
    assert not same(cold, upscaling.run(wanted, seed=8))
    progress = [event.done for event in cold.events if isinstance(event, StepProgress)]
    assert progress == ([1, 2] if mode == "x4" else progress)


def test_diffusion_upscale_is_held_freed_and_released(upscaling: Bench):
    upscaling.run(document(larger() | {"release_models": True}))
    assert upscaling.runner.residency.entries == ()
    first = upscaling.run(document(larger()))
    assert any(e.title.startswith("unet of") for e in upscaling.runner.residency.entries)
    upscaling.free()
    assert same(first, upscaling.run(document(larger())))


def test_noise_level_applies_to_x4_only(upscaling: Bench):
    little, much = (
        pixels(upscaling.run(document(larger(noise_level=level))))[0] for level in (1, 300)
    )
    assert not np.array_equal(little, much)
    (step,) = upscaling.plan(document(larger(mode="x2", noise_level=1))).steps
    assert isinstance(step, PipelineStep)
    assert "noise_level" not in step.arguments
    plan = upscaling.plan(document(larger(mode="x2", noise_level=1)))
    assert plan.warnings == (
        "'noise_level' is not used here: steps[0].task.arguments.noise_level.",
    )


def test_diffusion_upscale_uses_half_precision_on_accelerator(upscaling: Bench, tmp_path: Path):
    other = Bench(tmp_path / "other", Accelerator())
    other.models, other.folder = upscaling.models, upscaling.folder
    other.run(document(larger()))
    titles = [entry.title for entry in other.runner.residency.entries]
    assert "unet of stable-diffusion-x4-upscaler (float16)" in titles
