"""From a model's folder to a pipeline: what is found, refused and loaded."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.dialect.fingerprint import tensor_bytes
from app.protocol import Loading
from app.worker.loading.load import find_parts
from app.worker.loading.parts import Part
from tests.standins import build_sdxl
from tests.worker.bench import SHAPES, Bench, document, step

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
NO_CHECKER = {"safety_checker": None}
ON_MODEL = document(step(model="model"))


def found(bench: Bench, **changes: Any) -> dict[str, Part]:
    """Returns the parts of a step on `model`, by name."""
    plan = bench.plan(document(step(model="model", **changes)))
    return {part.name: part for part in find_parts(plan.steps[0]).parts}


def edit_index(model: Path, **entries: Any) -> None:
    path = model / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


# --- what a model is made of ---------------------------------------------------------------------


def test_index_names_parts_and_classes(bench: Bench, model: Path):
    parts = found(bench)
    assert {name: part.component_class.__name__ for name, part in parts.items()} == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "PNDMScheduler",
        "safety_checker": "StableDiffusionSafetyChecker",
        "feature_extractor": "CLIPImageProcessorPil",
    }
    assert parts["unet"].title == "unet of model (float32)"
    assert parts["unet"].folder == model / "unet"


def test_component_set_to_null_is_not_loaded(bench: Bench, model: Path):
    loading = {**NO_CHECKER, "feature_extractor": None}
    assert not {"safety_checker", "feature_extractor"} & set(found(bench, loading=loading))
    pipeline = bench.assembled(document(step(model="model", loading=loading)))
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None
    assert pipeline.config.requires_safety_checker is False


def test_component_set_to_null_may_be_missing(bench: Bench, model: Path):
    shutil.rmtree(model / "safety_checker")
    assert "is missing" in bench.refused(ON_MODEL).hint
    bench.assembled(document(step(model="model", loading=NO_CHECKER)))


def test_index_null_component_is_not_loaded(bench: Bench, model: Path):
    edit_index(model, safety_checker=[None, None])
    assert "safety_checker" not in found(bench)
    assert bench.assembled(document(step(model="model"))).safety_checker is None


def test_optional_component_may_be_missing_from_index(bench: Bench, model: Path):
    path = model / "model_index.json"
    index = json.loads(path.read_text())
    del index["safety_checker"]
    path.write_text(json.dumps(index))
    assert bench.assembled(document(step(model="model"))).safety_checker is None


def test_missing_required_component_is_refused_before_loading(bench: Bench, model: Path):
    shutil.rmtree(model / "unet")
    path = model / "model_index.json"
    index = json.loads(path.read_text())
    del index["unet"]
    path.write_text(json.dumps(index))
    error = bench.refused(document(step(model="model")))
    assert error.message == "'model' has no unet, which StableDiffusionPipeline needs."
    assert error.hint == "It is a model for StableDiffusionPipeline."


def test_diffusion_pipeline_stands_for_the_index_class(bench: Bench, model: Path):
    wanted = step(model="model")
    wanted["pipeline"]["configuration"]["component_type"] = "DiffusionPipeline"
    pipeline = bench.assembled(document(wanted))
    assert type(pipeline) is diffusers.StableDiffusionPipeline


def test_index_plain_value_reaches_pipeline(bench: Bench, tmp_path: Path):
    from tests.standins import build_sdxl

    build_sdxl(tmp_path / "model")
    edit_index(tmp_path / "model", force_zeros_for_empty_prompt=False)
    pipeline = bench.assembled(document(step(model="model", kind="XL")))
    assert pipeline.config.force_zeros_for_empty_prompt is False


# --- components of their own ---------------------------------------------------------------------


def test_watermark_is_never_added(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """diffusers adds one to SDXL's images if a certain package is installed."""
    build_sdxl(tmp_path / "xl")
    module = diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl
    monkeypatch.setattr(module, "is_invisible_watermark_available", lambda: True)
    monkeypatch.setattr(module, "StableDiffusionXLWatermarker", object, raising=False)
    for loading in ({}, {"add_watermarker": True}):
        pipeline = bench.assembled(
            document(step(model=tmp_path / "xl", kind="XL", loading=loading))
        )
        assert pipeline.watermark is None


def test_component_block_has_own_source_and_dtype(bench: Bench, model: Path):
    block = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {
            "model_name": SHAPES,
            "subfolder": "vae",
            "torch_dtype": "torch.bfloat16",
        },
    }
    own = bench.assembled(document(step(model="model", loading=NO_CHECKER)))
    pipeline = bench.assembled(
        document(step(model="model", loading=NO_CHECKER, blocks={"vae": block}))
    )
    assert (own.vae.dtype, pipeline.vae.dtype) == (torch.float32, torch.bfloat16)
    assert pipeline.unet.dtype == torch.float32
    weights = load_file(Path(SHAPES) / "vae" / DIFFUSERS_WEIGHTS)
    for name, tensor in pipeline.vae.state_dict().items():
        assert torch.equal(tensor, weights[name].bfloat16()), name


def test_component_block_replaces_missing_folder(bench: Bench, model: Path):
    shutil.rmtree(model / "unet")
    block = {
        "configuration": {"component_type": "UNet2DConditionModel"},
        "from_pretrained_arguments": {"model_name": SHAPES, "subfolder": "unet"},
    }
    assert found(bench, blocks={"unet": block})["unet"].title == "unet of shapes (float32)"


def test_component_block_with_missing_subfolder_is_reported(bench: Bench, model: Path):
    block = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {"model_name": SHAPES, "subfolder": "vae_2"},
    }
    error = bench.refused(document(step(model="model", blocks={"vae": block})))
    assert "has no folder for its vae" in error.message
    assert "vae_2/ is missing" in error.hint


def test_component_block_equal_to_index_is_the_same_component(bench: Bench, model: Path):
    block = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {"model_name": "model", "subfolder": "vae"},
    }
    assert found(bench)["vae"].key == found(bench, blocks={"vae": block})["vae"].key


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        ["os", "system"],
        ["os", "PathLike"],
        ["subprocess", "Popen"],
        ["builtins", "object"],
        ["planted", "Component"],
        ["diffusers_modules.local.planted", "Component"],
        ["transformers", "pipeline"],
        ["diffusers", "NoSuchModel"],
        ["diffusers", None],
        ["diffusers"],
        [["diffusers"], "AutoencoderKL"],
        [],
    ],
    ids=str,
)
def test_index_classes_of_other_libraries_are_refused_without_import(
    bench: Bench, model: Path, monkeypatch: pytest.MonkeyPatch, entry: list[Any]
):
    trace = model / "trace"
    for folder in (model, model / "unet"):
        (folder / "planted.py").write_text(f"open({str(trace)!r}, 'w')\nclass Component: pass\n")
        monkeypatch.syspath_prepend(folder)
    edit_index(model, unet=entry)
    error = bench.refused(ON_MODEL)
    assert "The unet of 'model'" in error.message
    assert "not a class of diffusers or transformers" in error.message
    assert not trace.exists()
    assert "planted" not in sys.modules


@pytest.mark.parametrize("name", ["system", "AutoencoderKL", "ModelMixin", "", None])
def test_index_without_pipeline_is_refused(bench: Bench, model: Path, name: Any):
    edit_index(model, _class_name=name)
    wanted = step(model="model")
    wanted["pipeline"]["configuration"]["component_type"] = "DiffusionPipeline"
    assert "not a diffusers pipeline" in bench.refused(document(wanted)).message


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "7", "\x00"])
def test_invalid_index_is_refused(bench: Bench, model: Path, content: str):
    (model / "model_index.json").write_text(content)
    error = bench.refused(ON_MODEL)
    assert error.message == "'model' is not a diffusers model."
    assert "model_index.json" in error.hint


def test_missing_folder_is_named(bench: Bench, model: Path):
    shutil.rmtree(model / "unet")
    error = bench.refused(ON_MODEL)
    assert error.message == "'model' has no folder for its unet."
    assert error.hint == "The model is incomplete: unet/ is missing."


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"<html>not a model</html>"])
def test_invalid_weights_are_refused_before_loading(bench: Bench, model: Path, content: bytes):
    (model / "unet" / DIFFUSERS_WEIGHTS).write_bytes(content)
    ended = bench.run(document(step(model="model"))).terminal
    assert ended.type == "run_failed"
    assert (ended.error.kind, ended.error.message) == (
        "LoadError",
        "The weights of the unet of 'model' cannot be read.",
    )
    assert bench.runner.residency.entries == ()


def test_truncated_weights_are_refused_before_loading(bench: Bench, model: Path):
    weights = model / "unet" / DIFFUSERS_WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    ended = bench.run(document(step(model="model"))).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == "The weights of the unet of 'model' cannot be read."
    assert ended.error.hint.startswith(f"'{DIFFUSERS_WEIGHTS}' is cut off: ")
    assert bench.runner.residency.entries == ()
    weights.write_bytes(whole)
    assert bench.run(document(step(model="model"))).success


def test_pickled_weights_are_not_loaded(bench: Bench, model: Path):
    weights = model / "unet" / DIFFUSERS_WEIGHTS
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert bench.refused(ON_MODEL).message == "The unet of 'model' has no safetensors weights."


def test_broken_config_is_reported_with_its_component(bench: Bench, model: Path):
    (model / "text_encoder" / "config.json").write_text("{")
    assert bench.refused(ON_MODEL).message == "The text_encoder of 'model' could not be loaded."


def test_failing_load_restores_torch_state(bench: Bench, model: Path):
    config = model / "unet" / "config.json"
    wrong = {**json.loads(config.read_text()), "down_block_types": ["NoSuchBlock", "DownBlock2D"]}
    config.write_text(json.dumps(wrong))
    half = step(model="model", loading={"dtype": "torch.bfloat16"})
    assert bench.refused(document(half)).message == "The unet of 'model' could not be loaded."
    assert torch.get_default_dtype() == torch.float32


def test_components_loaded_before_a_broken_one_are_kept(bench: Bench, model: Path):
    (model / "scheduler" / "scheduler_config.json").write_text("{")
    assert bench.run(document(step(model="model"))).terminal.type == "run_failed"
    held = [entry.title for entry in bench.runner.residency.entries]
    assert "unet of model (float32)" in held
    assert not any(title.startswith("scheduler") for title in held)


# --- bytes, dtypes, variants ---------------------------------------------------------------------


def header_bytes(*files: Path) -> int:
    return sum(map(tensor_bytes, files))


def test_loading_bytes_are_those_of_file_tensors(bench: Bench, model: Path):
    parts = found(bench)
    told = {name: part.weight_bytes for name, part in parts.items()}
    assert told == {name: header_bytes(*(model / name).glob("*.safetensors")) for name in parts}
    unet = bench.assembled(document(step(model="model", loading=NO_CHECKER))).unet
    assert told["unet"] == sum(tensor.nbytes for tensor in unet.state_dict().values())
    assert told["scheduler"] == told["tokenizer"] == 0


def test_loading_is_reported_before_and_after_each_component(bench: Bench, model: Path):
    events = bench.run(document(step(model="model", loading=NO_CHECKER))).events
    loads = [event for event in events if isinstance(event, Loading)]
    parts = found(bench, loading=NO_CHECKER)
    assert [event.component for event in loads[::2]] == list(parts)
    assert [event.component for event in loads[1::2]] == list(parts)
    done = 0
    for before, after in zip(loads[::2], loads[1::2], strict=True):
        assert before.loaded_bytes == done
        done += parts[before.component].weight_bytes
        assert after.loaded_bytes == done
    assert {event.total_bytes for event in loads} == {done}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_applies_to_components_of_both_libraries(bench: Bench, model: Path, dtype: str):
    loading = {**NO_CHECKER, "torch_dtype": f"torch.{dtype}"}
    pipeline = bench.assembled(document(step(model="model", loading=loading)))
    for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        floating = {p.dtype for p in component.parameters() if p.is_floating_point()}
        assert floating == {getattr(torch, dtype)}, type(component).__name__


def test_default_dtype_is_float32(bench: Bench, model: Path):
    weights = model / "unet" / DIFFUSERS_WEIGHTS
    halved = {name: tensor.half() for name, tensor in load_file(weights).items()}
    save_file(halved, weights, {"format": "pt"})
    pipeline = bench.assembled(document(step(model="model", loading=NO_CHECKER)))
    assert pipeline.unet.dtype == torch.float32


def test_loaded_component_is_in_eval_mode(bench: Bench, model: Path):
    pipeline = bench.assembled(document(step(model="model")))
    assert not any(
        component.training for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    )


def test_variant_is_loaded_if_available_else_plain_weights(bench: Bench, model: Path):
    plain = model / "unet" / DIFFUSERS_WEIGHTS
    of_variant = plain.with_name("diffusion_pytorch_model.fp16.safetensors")
    zeros = {name: torch.zeros_like(tensor).half() for name, tensor in load_file(plain).items()}
    save_file(zeros, of_variant, {"format": "pt"})
    loading = {**NO_CHECKER, "variant": "fp16"}

    parts = found(bench, loading=loading)
    # Half precision, loaded as float32.
    assert parts["unet"].weight_bytes == 2 * header_bytes(of_variant)
    assert parts["vae"].weight_bytes == header_bytes(model / "vae" / DIFFUSERS_WEIGHTS)
    pipeline = bench.assembled(document(step(model="model", loading=loading)))
    assert not any(p.any() for p in pipeline.unet.parameters())
    assert any(p.any() for p in pipeline.vae.parameters())
    plainly = bench.assembled(document(step(model="model", loading=NO_CHECKER)))
    assert any(p.any() for p in plainly.unet.parameters())


def test_variant_of_text_encoder_is_loaded(bench: Bench, model: Path):
    plain = model / "text_encoder" / "model.safetensors"
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(plain).items()}
    save_file(zeros, plain.with_name("model.fp16.safetensors"), {"format": "pt"})
    loading = {**NO_CHECKER, "variant": "fp16"}
    pipeline = bench.assembled(document(step(model="model", loading=loading)))
    assert not any(p.any() for p in pipeline.text_encoder.parameters())


def test_sharded_weights_are_counted_and_loaded(bench: Bench, model: Path):
    whole = bench.assembled(document(step(model="model", loading=NO_CHECKER))).unet
    before = found(bench)["unet"].weight_bytes
    (model / "unet" / DIFFUSERS_WEIGHTS).unlink()
    whole.save_pretrained(model / "unet", max_shard_size="100KB")
    shards = list((model / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert found(bench)["unet"].weight_bytes == before == header_bytes(*shards)
    again = bench.assembled(document(step(model="model", loading=NO_CHECKER))).unet
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_missing_shard_is_named_before_loading(bench: Bench, model: Path):
    unet = bench.assembled(document(step(model="model", loading=NO_CHECKER))).unet
    (model / "unet" / DIFFUSERS_WEIGHTS).unlink()
    unet.save_pretrained(model / "unet", max_shard_size="100KB")
    lost = sorted((model / "unet").glob("*-of-*.safetensors"))[1]
    elsewhere = lost.rename(model / lost.name)
    ended = bench.run(document(step(model="model", loading=NO_CHECKER))).terminal
    assert ended.type == "run_failed"
    assert ended.error.hint == (
        f"'{lost.name}', which '{DIFFUSERS_WEIGHTS}.index.json' lists, is missing."
    )
    assert bench.runner.residency.entries == ()
    elsewhere.rename(lost)
    assert bench.run(document(step(model="model", loading=NO_CHECKER))).success
