"""Run-time settings apply to one step only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.protocol import Event, PhaseChanged, RunCancelled, StepProgress
from app.worker.device import Device
from app.worker.loading.load import assemble, find_parts
from app.worker.tuning.loras import HeldLoras
from app.worker.tuning.tune import tuned
from tests.engines import Finished
from tests.worker.bench import SHAPES, Bench, Document, document, pixels, same, step

OUTLINE = Path(SHAPES) / "outline"
PLAIN = document(step(), id="plain")


def outlined(scale: float = 1.0, model: str | Path = OUTLINE, **lora: Any) -> Document:
    """Returns the plain document with a LoRA."""
    loras = [{"model_name": str(model), "scale": scale, **lora}]
    return document(step(blocks={"loras": loras}), id="outlined")


# --- LoRA ----------------------------------------------------------------------------------------


def test_lora_is_loaded_for_one_run_only(bench: Bench):
    before = bench.run(PLAIN)
    with_lora = bench.run(outlined())
    after = bench.run(PLAIN)
    assert with_lora.success.loaded == after.success.loaded == ()
    assert not same(before, with_lora)
    assert same(before, after)
    assert same(with_lora, bench.run(outlined()))


def test_lora_scale_is_applied(bench: Bench):
    whole, half, none = (bench.run(outlined(scale)) for scale in (1.0, 0.5, 0.0))
    assert not same(whole, half)
    assert same(none, bench.run(PLAIN))


def test_loras_are_combined(bench: Bench):
    loras = [
        {"model_name": str(OUTLINE), "adapter_name": "one", "scale": 0.5},
        {"model_name": str(OUTLINE), "adapter_name": "two", "scale": 0.5},
    ]
    both = bench.run(document(step(blocks={"loras": loras}), id="both"))
    np.testing.assert_allclose(pixels(both)[0], pixels(bench.run(outlined()))[0], atol=2)
    assert same(bench.run(PLAIN), Bench(bench.folder).run(PLAIN))


def test_lora_does_not_affect_next_step(bench: Bench):
    first = step("first", blocks={"loras": [{"model_name": str(OUTLINE)}]})
    with_lora, plain = pixels(bench.run(document(first, step("second"))))
    assert np.array_equal(plain, pixels(bench.run(PLAIN))[0])
    assert not np.array_equal(with_lora, plain)


def test_lora_file_is_chosen_by_name(bench: Bench, tmp_path: Path):
    shutil.copytree(OUTLINE, tmp_path / "loras")
    weights = next((tmp_path / "loras").glob("*.safetensors"))
    weights.rename(weights.with_name("outline.safetensors"))
    (tmp_path / "loras" / "another.safetensors").write_bytes(b"not looked at")
    named = bench.run(outlined(model="loras", weight_name="outline.safetensors"))
    assert same(named, bench.run(outlined()))


def test_lora_variable_selects_lora_without_loading_components(bench: Bench, tmp_path: Path):
    shutil.copytree(OUTLINE, tmp_path / "outline")
    shutil.copytree(OUTLINE, tmp_path / "faint")
    (faint,) = (tmp_path / "faint").glob("*.safetensors")
    save_file({name: tensor / 2 for name, tensor in load_file(faint).items()}, faint)
    choosing = {**outlined(model="variable:lora"), "variables": {"lora": "outline"}}
    flow = bench.write(choosing, "choose")
    expected = {name: Bench(tmp_path).run(outlined(model=name)) for name in ("outline", "faint")}
    assert not same(*expected.values())
    assert bench.run(bench.plan(flow)).success
    for name in ("faint", "outline", "faint"):
        ran = bench.run(bench.plan(flow, lora=name))
        assert ran.success.loaded == ()
        assert same(ran, expected[name])


def test_lora_file_with_blanks_brackets_and_dots_is_loaded(bench: Bench, tmp_path: Path):
    name = "[old] my style v1.2 (final)..safetensors"
    shutil.copytree(OUTLINE, tmp_path / "my loras")
    next((tmp_path / "my loras").glob("*.safetensors")).rename(tmp_path / "my loras" / name)
    named = bench.run(outlined(model="./my loras", weight_name=name))
    assert same(named, bench.run(outlined()))


def test_missing_lora_is_reported_and_leaves_no_trace(bench: Bench, tmp_path: Path):
    (tmp_path / "loras").mkdir()
    before = bench.run(PLAIN)
    ended = bench.run(outlined(model="loras")).terminal
    assert ended.type == "run_failed"
    assert (ended.error.kind, ended.error.message) == (
        "LoadError",
        "The LoRA 'loras' could not be applied in step 'draw', to a StableDiffusionPipeline.",
    )
    assert same(before, bench.run(PLAIN))


def test_lora_of_another_model_is_reported_and_leaves_no_trace(bench: Bench, tmp_path: Path):
    before = bench.run(PLAIN)
    shutil.copytree(Path(SHAPES) / "vae", tmp_path / "loras")
    ended = bench.run(outlined(model="loras")).terminal
    assert ended.type == "run_failed"
    assert ended.error.kind == "LoadError"
    name = next((tmp_path / "loras").glob("*.safetensors")).name
    assert ended.error.message == f"'{name}', in step 'draw', is no LoRA."
    assert ended.error.hint.startswith("Its first tensor is '")
    assert same(before, bench.run(PLAIN))


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "made for Stable Diffusion XL."),
        (
            "lora_te1_text_model_encoder_layers_9_mlp_fc1.lora_down.weight",
            "made for Stable Diffusion XL.",
        ),
        ("other.0.lora_A.weight", "Its first tensor is 'other.0.lora_A.weight'."),
    ],
)
def test_lora_of_another_family_is_reported_with_its_family(
    bench: Bench, tmp_path: Path, tensor: str, told: str
):
    before = bench.run(PLAIN)
    (tmp_path / "theirs").mkdir()
    other = tensor.replace("lora_A", "lora_B").replace("lora_down", "lora_up")
    pair = {tensor: torch.zeros(4, 8), other: torch.zeros(8, 4)}
    save_file(pair, tmp_path / "theirs" / "a.safetensors")
    ended = bench.run(outlined(model="theirs")).terminal
    assert ended.type == "run_failed"
    assert ended.error.kind == "LoadError"
    assert "The LoRA 'a.safetensors'" in ended.error.message
    assert "StableDiffusionPipeline" in ended.error.message
    assert len(ended.error.hint) < 500
    assert told in ended.error.hint
    assert same(before, bench.run(PLAIN))


def test_pipeline_without_lora_support_is_reported(bench: Bench, tmp_path: Path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "noise")
    wanted = step(model="noise", blocks={"loras": [{"model_name": str(OUTLINE)}]})
    wanted["pipeline"]["configuration"]["component_type"] = "DDPMPipeline"
    wanted["pipeline"]["arguments"] = {"num_inference_steps": 1}
    ended = bench.run(document(wanted)).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == "DDPMPipeline takes no LoRA."
    assert ended.error.hint == "Remove 'loras' from steps[0].pipeline."


def test_cancelled_run_leaves_no_lora(bench: Bench):
    before = bench.run(PLAIN)

    def cancel_while_denoising(event: Event) -> None:
        if isinstance(event, StepProgress):
            bench.cancel(event.run_id)

    bench.when = cancel_while_denoising
    assert isinstance(bench.run(outlined()).terminal, RunCancelled)
    bench.when = lambda _event: None
    after = bench.run(PLAIN)
    assert after.success.loaded == ()
    assert same(before, after)


def test_failing_run_leaves_no_lora(bench: Bench):
    before = bench.run(PLAIN)

    def fail_while_denoising(event: Any) -> None:
        if isinstance(event, StepProgress):
            raise ValueError("for the test")

    bench.when = fail_while_denoising
    assert bench.run(outlined()).terminal.type == "run_failed"
    bench.when = lambda _event: None
    assert same(before, bench.run(PLAIN))


# --- the autoencoder -----------------------------------------------------------------------------


def with_vae(bench: Bench, **switches: bool) -> tuple[Any, Any]:
    """Yields step and pipeline of a document with these VAE settings, over held components."""
    wanted = step()
    wanted["pipeline"]["configuration"]["vae"] = switches
    bench.run(document(wanted, id="switched"))
    planned = bench.plan(document(wanted, id="switched")).steps[0]
    parts = find_parts(planned)
    held = {entry.key: entry.component for entry in bench.runner.residency.entries}
    return planned, assemble(planned, parts, held)


@pytest.mark.parametrize("setting", ["tiling", "slicing"])
def test_tiling_and_slicing_are_undone_after_the_step(bench: Bench, setting: str):
    planned, pipeline = with_vae(bench, **{f"enable_{setting}": True})
    assert getattr(pipeline.vae, f"use_{setting}") is False
    with tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)):
        assert getattr(pipeline.vae, f"use_{setting}") is True
    assert getattr(pipeline.vae, f"use_{setting}") is False
    with (
        pytest.raises(ZeroDivisionError),
        tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)),
    ):
        raise ZeroDivisionError
    assert getattr(pipeline.vae, f"use_{setting}") is False


def test_tiling_does_not_affect_next_run(bench: Bench):
    large = {"width": 256, "height": 256}
    tiled = step(**large)
    tiled["pipeline"]["configuration"]["vae"] = {"enable_tiling": True}
    before = bench.run(document(step(**large), id="whole"))
    in_tiles = bench.run(document(tiled, id="tiled"))
    assert not same(before, in_tiles)
    assert same(before, bench.run(document(step(**large), id="whole")))


def test_slicing_changes_only_memory_use(bench: Bench):
    sliced = step(num_images_per_prompt=2)
    sliced["pipeline"]["configuration"]["vae"] = {"enable_slicing": True}
    whole = pixels(bench.run(document(step(num_images_per_prompt=2), id="whole")))
    in_slices = pixels(bench.run(document(sliced, id="sliced")))
    for one, other in zip(whole, in_slices, strict=True):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)


def test_vae_dtype_is_restored_after_a_call(bench: Bench):
    """SDXL decodes in float32 and restores its autoencoder only at the end of a whole call."""
    planned, pipeline = with_vae(bench)
    dtype = pipeline.vae.dtype
    with tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)):
        pipeline.vae.half()
    assert pipeline.vae.dtype == dtype


# --- offload -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_without_accelerator_has_no_effect_and_warns(
    bench: Bench, offload: str, caplog: pytest.LogCaptureFixture
):
    offloaded = step()
    offloaded["pipeline"]["configuration"]["offload"] = offload
    ran = bench.run(document(offloaded, id="offloaded"))
    assert f"offload '{offload}' has no effect: there is no accelerator" in caplog.messages
    assert same(ran, bench.run(PLAIN))


def phases(finished: Finished) -> list[str]:
    return [event.phase for event in finished.events if isinstance(event, PhaseChanged)]


def test_lora_does_not_hide_phases(bench: Bench):
    assert phases(bench.run(outlined())) == phases(bench.run(PLAIN))
