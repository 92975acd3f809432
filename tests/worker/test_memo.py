"""A prompt is encoded once by the same encoders, and the image is the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel

from app.protocol import FreeMemory
from tests.standins import build_flux, build_sd, build_sdxl, build_wan
from tests.worker.bench import SHAPES, Bench, Document, document, same, step
from tests.worker.encoding import encoded


def forgetful(folder: Path) -> Bench:
    """A bench without caches."""
    (folder / "forgetful").mkdir(exist_ok=True)
    return Bench(folder / "forgetful", prompt_memo_bytes=0)


# --- every family --------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[Callable[[Path], None], Mapping[str, Any]]] = {
    "StableDiffusionPipeline": (build_sd, {}),
    "StableDiffusionXLPipeline": (build_sdxl, {"negative_prompt": "blue"}),
    "FluxPipeline": (build_flux, {"max_sequence_length": 32}),
    "WanPipeline": (build_wan, {"num_frames": 1}),
}


# A warning of SDXL's scheduler, which pytest would make an error.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("pipeline_class", FAMILIES)
def test_prompt_memo_hit_calls_no_encoder_and_draws_the_same(
    bench: Bench, tmp_path: Path, pipeline_class: str
):
    build, arguments = FAMILIES[pipeline_class]
    build(tmp_path / "model")
    drawing = step(model="model", width=32, height=32, **arguments)
    drawing["pipeline"]["configuration"]["component_type"] = pipeline_class
    if pipeline_class == "WanPipeline":
        drawing["result"]["content_type"] = "video/mp4"
    first, second = (encoded(bench, document(drawing)) for _ in range(2))
    assert first.calls > 0
    assert second.calls == 0
    (one,), (other,) = first.finished.results, second.finished.results
    assert shown(one.path) == shown(other.path)

    bench.runner.clean_up()
    restarted = encoded(Bench(tmp_path), document(drawing))
    assert restarted.calls == 0
    assert shown(restarted.finished.results[0].path) == shown(one.path)


def shown(path: str) -> list[bytes]:
    """Returns the frames of a video, or the only image."""
    if path.endswith(".mp4"):
        with av.open(path) as video:
            return [frame.to_ndarray(format="rgb24").tobytes() for frame in video.decode(video=0)]
    with Image.open(path) as picture:
        return [picture.tobytes()]


# --- what is the same and what is not ------------------------------------------------------------


def test_prompt_memo_ignores_seed_size_and_steps(bench: Bench):
    bench.run(document(step()))
    other = document(step(width=64, height=64, num_inference_steps=3))
    assert encoded(bench, other, seed=8).calls == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "a red circle "},
        {"prompt": ["a red circle"]},
        {"negative_prompt": "blue"},
        {"num_images_per_prompt": 2},
        {"guidance_scale": 1.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_prompt_memo_misses_for_other_encoder_argument(
    bench: Bench, tmp_path: Path, changed: dict[str, Any]
):
    bench.run(document(step()))
    other = document(step(**changed))
    again = encoded(bench, other)
    assert again.calls > 0
    assert same(again.finished, forgetful(tmp_path).run(other))


def test_prompt_memo_separates_prompts(bench: Bench, tmp_path: Path):
    drawings = [document(step(prompt=prompt)) for prompt in ("a red circle", "a blue star")]
    for drawing in drawings:
        bench.run(drawing)
    for drawing in drawings:
        again = encoded(bench, drawing)
        assert again.calls == 0
        assert same(again.finished, forgetful(tmp_path).run(drawing))


def test_prompt_memo_misses_for_other_encoder_weights(bench: Bench, tmp_path: Path):
    build_sd(tmp_path / "model", seed=0)
    before = encoded(bench, document(step(model="model")))
    build_sd(tmp_path / "other", seed=1)
    shutil.rmtree(tmp_path / "model" / "text_encoder")
    shutil.copytree(tmp_path / "other" / "text_encoder", tmp_path / "model" / "text_encoder")
    after = encoded(bench, document(step(model="model")))
    assert after.calls > 0
    assert not same(before.finished, after.finished)


def test_prompt_memo_misses_for_other_dtype(bench: Bench):
    bench.run(document(step()))
    half = document(step(loading={"dtype": "torch.bfloat16"}))
    assert encoded(bench, half).calls > 0
    assert encoded(bench, half).calls == 0


def test_prompt_memo_hits_with_another_denoiser(bench: Bench, tmp_path: Path, model: Path):
    bench.run(document(step(model=model)))
    build_sd(tmp_path / "tuned", seed=5)
    unet = {
        "configuration": {"component_type": "UNet2DConditionModel"},
        "from_pretrained_arguments": {"model_name": str(tmp_path / "tuned" / "unet")},
    }
    swapped = document(step(model=model, blocks={"unet": unet}))
    again = encoded(bench, swapped)
    assert again.calls == 0
    assert same(again.finished, forgetful(tmp_path).run(swapped))


@pytest.fixture
def encoder_lora(tmp_path: Path) -> Path:
    """A LoRA of the bundled model's text encoder."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    encoder = CLIPTextModel.from_pretrained(Path(SHAPES) / "text_encoder")
    width = encoder.config.hidden_size
    layer = next(name for name, _ in encoder.named_modules() if name.endswith("q_proj"))
    tensors = {
        f"text_encoder.{layer}.lora_A.weight": drawn(4, width),
        f"text_encoder.{layer}.lora_B.weight": drawn(width, 4),
    }
    (tmp_path / "loras").mkdir()
    save_file(tensors, tmp_path / "loras" / "encoder.safetensors")
    return tmp_path / "loras"


def with_lora(scale: float) -> Document:
    loras = [{"model_name": "loras", "weight_name": "encoder.safetensors", "scale": scale}]
    return document(step(blocks={"loras": loras}))


def test_prompt_memo_depends_on_lora_and_scale(bench: Bench, tmp_path: Path, encoder_lora: Path):
    drawings = [document(step()), with_lora(1.0), with_lora(0.5)]
    first = [encoded(bench, drawing) for drawing in drawings]
    assert all(each.calls for each in first)
    assert not any(same(first[0].finished, each.finished) for each in first[1:])
    for before, drawing in zip(first, drawings, strict=True):
        again = encoded(bench, drawing)
        assert again.calls == 0
        assert same(before.finished, again.finished)


def test_prompt_memo_depends_on_lora_file(bench: Bench, encoder_lora: Path):
    bench.run(with_lora(1.0))
    file = encoder_lora / "encoder.safetensors"
    weights = file.read_bytes()
    file.unlink()
    file.write_bytes(weights)
    assert encoded(bench, with_lora(1.0)).calls > 0


# --- memory -------------------------------------------------------------------------------------


def test_free_clears_prompt_memo_but_not_its_folder(bench: Bench):
    drawing = document(step())
    bench.run(drawing)
    bench.runner.free(FreeMemory(request_id="free"))
    assert encoded(bench, drawing).calls > 0, "nothing had been written yet"
    bench.runner.clean_up()
    bench.runner.free(FreeMemory(request_id="free"))
    assert encoded(bench, drawing).calls == 0


def test_prompt_memo_ignores_embeddings_over_its_limit(tmp_path: Path):
    bench = Bench(tmp_path, prompt_memo_bytes=100)
    first, second = (encoded(bench, document(step())) for _ in range(2))
    assert second.calls == first.calls > 0
    assert same(first.finished, second.finished)
