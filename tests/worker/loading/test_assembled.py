"""Pipelines assembled from components alone, and videos with audio in two stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidWorkflow
from tests.standins.ltx2 import SOUND_RATE, build_ltx2
from tests.worker.bench import Bench, Document, document, step
from tests.worker.results.files import seen

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]
UPSAMPLER = "diffusers.pipelines.ltx2.latent_upsampler.LTX2LatentUpsamplerModel"
MP4 = {"content_type": "video/mp4", "fps": 24}


@pytest.fixture(scope="module")
def ltx2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ltx2")
    build_ltx2(folder)
    return folder


def base(model: Path) -> Document:
    arguments = {
        "prompt": "a fox", "width": 64, "height": 64, "num_frames": 9, "frame_rate": 24.0,
        "sigmas": "constant:diffusers.pipelines.ltx2.utils.STAGE_2_DISTILLED_SIGMA_VALUES",
        "guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "audio_guidance_scale": 1.0,
        "audio_stg_scale": 0.0, "audio_modality_scale": 1.0, "output_type": "{np}",
    }  # fmt: skip
    return {
        "name": "base",
        "release_pipeline": True,
        "pipeline": {
            "configuration": {"component_type": "LTX2Pipeline", "shared_components": ["vae"]},
            "from_pretrained_arguments": {"model_name": str(model)},
            "arguments": arguments,
        },
        "result": {**MP4, "save": False},
    }


def upscale(model: Path, **changes: Any) -> Document:
    block = {
        "configuration": {
            "component_type": "LTX2LatentUpsamplePipeline",
            "reused_components": ["vae"],
            "vae": {"enable_tiling": True},
        },
        "from_pretrained_arguments": {},
        "latent_upsampler": {
            "configuration": {"component_type": UPSAMPLER},
            "from_pretrained_arguments": {
                "model_name": str(model), "subfolder": "latent_upsampler"
            },
        },
        "arguments": {
            "video": "previous_result:base.frames", "width": 64, "height": 64,
            "output_type": "{np}",
        },
    }  # fmt: skip
    kept = {key: value for key, value in {**block, **changes}.items() if value is not None}
    return {"name": "upscale", "pipeline": kept, "result": {**MP4, "save": False}}


PAIR = {
    "name": "two_stage",
    "task": {
        "command": "pair_audio",
        "arguments": {"video": "previous_result:upscale", "audio": "previous_result:base"},
    },
    "result": MP4,
}


def test_assembled_pipelines_draw_and_upscale_video_with_audio(bench: Bench, ltx2: Path):
    cold = bench.run(document(base(ltx2), upscale(ltx2), PAIR))
    assert "latent_upsampler" in " ".join(cold.success.loaded)
    made = seen(cold.results[0].path)
    assert made.frames.shape == (9, 128, 128, 3)
    assert made.rate == SOUND_RATE
    assert made.sound is not None
    assert abs(len(made.sound) / SOUND_RATE - 9 / 24) < 0.1
    assert made.sound.std() > 0.01, "the sound is silent"
    warm = bench.run(document(base(ltx2), upscale(ltx2), PAIR), fresh=False)
    assert warm.success.made_at is not None


def test_missing_component_is_named(bench: Bench, ltx2: Path):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(document(base(ltx2), upscale(ltx2, latent_upsampler=None)))
    (problem,) = caught.value.problems
    assert problem.message == (
        "LTX2LatentUpsamplePipeline needs a latent_upsampler, and steps[1].pipeline names no model"
        " that it could be taken from."
    )
    assert problem.hint == (
        "Give steps[1].pipeline a block 'latent_upsampler', or reuse an earlier step's."
    )


def test_pipeline_without_model_and_components_is_refused(bench: Bench):
    with pytest.raises(InvalidWorkflow, match="The name of a model is needed"):
        bench.plan(document(step(loading={"model_name": None})))


@pytest.mark.parametrize(
    "name",
    [
        "diffusers.pipelines.ltx2.latent_upsampler.ResBlock",
        "diffusers.pipelines.ltx2.utils.LTX2LatentUpsamplerModel",
        "os.path.LTX2LatentUpsamplerModel",
        "diffusers.pipelines...LTX2LatentUpsamplerModel",
    ],
)
def test_only_model_classes_of_diffusers_can_be_components(bench: Bench, ltx2: Path, name: str):
    upscaling = upscale(ltx2)
    upscaling["pipeline"]["latent_upsampler"]["configuration"]["component_type"] = name
    with pytest.raises(InvalidWorkflow, match="is not a diffusers"):
        bench.plan(document(base(ltx2), upscaling))
