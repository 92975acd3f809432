"""Needs of a workflow, from its model's files before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.plan import Plan
from app.models.activations import Size, decode_bytes, denoise_bytes
from app.models.fit import Need, Room
from app.models.needs import line, lines, step_need, weighed_specs
from app.models.specs import Unknown
from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.standins.language import build_language_model

ROOM = Room(device_bytes=1_000_000_000, ram_bytes=0, total_bytes=1_000_000_000)


@pytest.fixture
def model(tmp_path: Path, shapes_model: Path) -> Path:
    """A writable copy of the bundled model."""
    return shutil.copytree(shapes_model, tmp_path / "model")


def step(model: Path | str, kind: str = "", name: str = "draw", **arguments: Any) -> dict[str, Any]:
    return {
        "name": name,
        "pipeline": {
            "configuration": {"component_type": f"StableDiffusion{kind}Pipeline"},
            "from_pretrained_arguments": {"model_name": str(model)},
            "arguments": {"prompt": "a star", **arguments},
        },
        "result": {"content_type": "image/png"},
    }


def planned(folder: Path, *steps: dict[str, Any]) -> Plan:
    path = folder / "flow.json"
    path.write_text(json.dumps({"id": "flow", "steps": list(steps)}))
    return make_plan(path, {}, paths=PathSettings(media=(folder,)))


def needed(plan: Plan) -> list[Need]:
    sizes: dict[str, Size] = {}
    return [step_need(each, weighed_specs(each), sizes) for each in plan.steps]


def config(model: Path, part: str) -> dict[str, Any]:
    return json.loads((model / part / "config.json").read_text())


def asked(model: Path, size: Size) -> tuple[int | None, Any]:
    """Returns the needs of denoising and decoding in this size."""
    unet, vae = config(model, "unet"), config(model, "vae")
    return denoise_bytes(unet, vae, size, "float32"), decode_bytes(vae, size, "float32")


def test_weights_are_counted_per_component_from_headers(tmp_path: Path, model: Path):
    (need,) = needed(planned(tmp_path, step(model)))
    found = {each.name: each.weight_bytes for each in need.weights}
    assert found == {"unet": 16_874_768, "vae": 3_778_268, "text_encoder": 1_627_392}
    assert (need.denoiser_bytes, need.decoder_bytes) == (found["unet"], found["vae"])


def test_list_in_index_is_not_a_component(tmp_path: Path, model: Path):
    """Krea 2 lists the text encoder's layers that it uses."""
    path = model / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "layers": [2, 5], "more_layers": [2, 5, 8]}))
    (need,) = needed(planned(tmp_path, step(model)))
    assert {each.name for each in need.weights} == {"unet", "vae", "text_encoder"}


def test_weights_are_counted_in_target_dtype(tmp_path: Path, model: Path):
    halved = step(model)
    halved["pipeline"]["from_pretrained_arguments"]["torch_dtype"] = "torch.bfloat16"
    (whole,), (half,) = needed(planned(tmp_path, step(model))), needed(planned(tmp_path, halved))
    assert half.total_bytes == whole.total_bytes // 2
    assert {each.dtype for each in half.weights} == {"bfloat16"}


def test_component_block_counts_in_its_own_dtype(tmp_path: Path, model: Path):
    mixed = step(model)
    mixed["pipeline"]["vae"] = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {
            "model_name": str(model), "subfolder": "vae", "torch_dtype": "torch.float16",
        },
    }  # fmt: skip
    (need,) = needed(planned(tmp_path, mixed))
    assert {each.name: each.dtype for each in need.weights}["vae"] == "float16"
    assert need.decoder_bytes == 3_778_268 // 2


def test_default_size_is_that_of_model(tmp_path: Path, model: Path):
    (need,) = needed(planned(tmp_path, step(model)))
    assert (need.denoise_bytes, need.decode) == asked(model, Size(128, 128, guided=True))


def test_needs_depend_on_size_number_and_guidance(tmp_path: Path, model: Path):
    several = step(
        model, width=256, height=64, num_images_per_prompt=3, prompt=["a", "b"], guidance_scale=1.0
    )
    (need,) = needed(planned(tmp_path, several))
    assert (need.denoise_bytes, need.decode) == asked(model, Size(256, 64, batch=6))


def test_size_comes_from_input_image_or_earlier_step(tmp_path: Path, model: Path):
    Image.new("RGB", (192, 96)).save(tmp_path / "start.png")
    drawn = step(model, width=320, height=160)
    from_file = step(model, "Img2Img", "vary", image={"location": str(tmp_path / "start.png")})
    from_step = step(model, "Img2Img", "again", image="previous_result:draw")
    first, second, third = needed(planned(tmp_path, drawn, from_file, from_step))
    assert second.decode == asked(model, Size(192, 96))[1]
    assert third.decode == first.decode


def test_shared_components_are_listed_for_each_step(tmp_path: Path, model: Path):
    plan = planned(tmp_path, step(model), step(model, name="more", num_images_per_prompt=4))
    first, second = lines(plan, ROOM)
    assert first.startswith("flow, step 'draw': 22 MB of weights (unet 17 MB, vae 4 MB, text_enc")
    assert second.startswith("flow, step 'more': ")
    assert line(plan, ROOM) == second


def test_needs_of_missing_model_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    plan = planned(tmp_path, step("somebody/something"))
    with pytest.raises(Unknown):
        weighed_specs(plan.steps[0])
    assert lines(plan, ROOM) == [
        "flow: memory needs unknown until 'somebody/something' has been downloaded."
    ]


def test_needs_of_unreadable_files_are_unknown(tmp_path: Path, model: Path):
    (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"none")
    (told,) = lines(planned(tmp_path, step(model)), ROOM)
    assert told.startswith("flow: memory needs unknown. The weights of the vae of '")
    assert "is not a safetensors file" in told


def test_unknown_networks_have_weights_but_no_activations(tmp_path: Path, model: Path):
    (model / "unet" / "config.json").write_text('{"_class_name": "Novelty"}')
    (need,) = needed(planned(tmp_path, step(model)))
    assert need.denoise_bytes is None
    assert need.denoiser_bytes == 16_874_768


@pytest.mark.parametrize(
    ("denoiser", "autoencoder", "tokens"),
    [
        ({"in_channels": 64, "patch_size": 1}, {"latent_channels": 16}, 4096),
        ({"in_channels": 16, "patch_size": 2}, {"latent_channels": 16}, 4096),
        ({"in_channels": 16, "patch_size": [1, 2, 2]}, {"z_dim": 16}, 4096),
    ],
    ids=["packed", "cut in patches", "of a video"],
)
def test_transformer_tokens_are_patches(
    denoiser: dict[str, Any], autoencoder: dict[str, Any], tokens: int
):
    heads = {"num_attention_heads": 2, "attention_head_dim": 4}
    found = denoise_bytes(
        {**heads, **denoiser},
        {**autoencoder, "block_out_channels": [1, 2, 3, 4]},
        Size(1024, 1024),
        "bfloat16",
    )
    assert found == (tokens + 512) * 8 * 17 * 2


def test_task_needs_half_the_weight_bytes_on_accelerator(tmp_path: Path):
    build_language_model(tmp_path / "writer")
    task = {"command": "text_generation", "arguments": {"prompt": "x", "model_name": "writer"}}
    plan = planned(tmp_path, {"name": "tell", "task": task})
    assert "125 kB of weights (model 125 kB)" in line(plan, ROOM)
    gpu = Room(device_bytes=1_000_000_000, ram_bytes=1_000_000_000, total_bytes=1_000_000_000)
    assert "63 kB of weights (model 63 kB)" in line(plan, gpu)
    task["arguments"]["device"] = "cpu"
    kept_off = planned(tmp_path, {"name": "tell", "task": task})
    assert "125 kB of weights" in line(kept_off, gpu)
    small = Room(device_bytes=50_000, ram_bytes=1_000_000_000, total_bytes=1_000_000_000)
    assert "fits in 1.0 GB" in line(kept_off, small)
    del task["arguments"]["device"]
    assert "does not fit" in line(planned(tmp_path, {"name": "tell", "task": task}), small)
