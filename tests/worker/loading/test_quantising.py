"""Quantised components: loading, size in memory, results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from app.dialect.plan_sources import ModelSource
from app.dialect.quantisation import QUANTISERS, Quantisation, quantisation
from app.errors import Cancelled, LoadError
from app.models.component_files import in_a_folder
from app.models.quantised import component_bytes
from app.protocol import Event, Loading, RunCancelled, StepProgress
from app.worker.device import Device
from app.worker.loading.components import part_of
from app.worker.loading.parts import Part
from app.worker.loading.quantising import _plain_tensors, held_bytes
from app.worker.loading.weights import _from_pretrained
from tests.doubles.accelerator import Accelerator
from tests.engines import run, started_engine
from tests.standins import build_flux
from tests.standins.lora import build_lora
from tests.worker.bench import Bench, Document, document, same

pytestmark = [
    # Warnings of the libraries, on import or when a quantiser is created.
    pytest.mark.filterwarnings("ignore:.Quanto.* is deprecated:FutureWarning"),
]
QUANTISED: dict[str, tuple[str, Document]] = {
    "nf4": (
        "BitsAndBytesConfig",
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "{nf4}",
            "bnb_4bit_compute_dtype": "torch.bfloat16",
        },
    ),
    "bnb-int8": ("BitsAndBytesConfig", {"load_in_8bit": True}),
    "torchao-int8": ("TorchAoConfig", {"quant_type": "torchao.quantization.Int8WeightOnlyConfig"}),
    "torchao-float8": ("TorchAoConfig", {"quant_type": "float8wo"}),
    "sdnq-uint4": ("sdnq.SDNQConfig", {"weights_dtype": "{uint4}", "minimum_allowed_numel": 1}),
    "sdnq-int8": ("sdnq.SDNQConfig", {"weights_dtype": "{int8}", "minimum_allowed_numel": 1}),
    "sdnq-int8-svd": (
        "sdnq.SDNQConfig",
        {"weights_dtype": "{int8}", "use_svd": True, "svd_rank": 4, "minimum_allowed_numel": 1},
    ),
    "quanto-int8": ("QuantoConfig", {"weights_dtype": "{int8}"}),
    "quanto-int4": ("QuantoConfig", {"weights_dtype": "{int4}"}),
    "quanto-int2": ("QuantoConfig", {"weights_dtype": "{int2}"}),
    "torchao-int8-dynamic": ("TorchAoConfig", {"quant_type": "int8dq"}),
    "torchao-intx": ("TorchAoConfig", {"quant_type": "IntxWeightOnlyConfig"}),
}


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "flux"
    build_flux(folder, head_dim=32)
    return folder


def quantised(
    flux: Path, how: str | None, component: str = "transformer", **changes: Any
) -> Document:
    """Returns a document that draws with one quantised component."""
    classes = {
        "transformer": "FluxTransformer2DModel",
        "text_encoder_2": "transformers.T5EncoderModel",
    }
    dtype = {"torch_dtype": "torch.bfloat16"}
    block: Document = {
        "configuration": {"component_type": classes[component]},
        "from_pretrained_arguments": {"model_name": str(flux), "subfolder": component, **dtype},
    }
    if how is not None:
        config_type, arguments = QUANTISED[how]
        block["quantization_config"] = {
            "configuration": {"config_type": config_type},
            "arguments": arguments,
        }
    return {
        "name": "draw",
        "pipeline": {
            "configuration": {"component_type": "FluxPipeline"},
            "from_pretrained_arguments": {"model_name": str(flux), **dtype},
            component: block,
            "arguments": {
                "prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2,
            },
            **changes,
        },
        "result": {"content_type": "image/png"},
    }  # fmt: skip


def held(bench: Bench, name: str) -> Any:
    """Returns the only held component with this title prefix."""
    [entry] = [e for e in bench.runner.residency.entries if e.title.startswith(f"{name} of")]
    return entry


@pytest.mark.parametrize("how", QUANTISED)
def test_quantised_transformer_is_equal_warm_and_cold_and_counted(
    how: str, flux: Path, bench: Bench
):
    whole = bench.run(document(quantised(flux, None)))
    whole_bytes = held(bench, "transformer").weight_bytes
    cold = bench.run(document(quantised(flux, how)))
    assert not same(cold, whole)
    entry = held(bench, "transformer")
    # Quantisers allocate a little more at the first call.
    assert entry.weight_bytes == pytest.approx(held_bytes(entry.component), rel=0.05)
    assert entry.weight_bytes < whole_bytes
    warm = bench.run(document(quantised(flux, how)))
    assert warm.success.loaded == ()
    assert same(cold, warm)
    bench.free()
    again = bench.run(document(quantised(flux, how)))
    assert any(title.startswith("transformer of flux") for title in again.success.loaded)
    assert same(cold, again)


@pytest.mark.parametrize("how", ["nf4", "bnb-int8", "torchao-int8", "sdnq-uint4", "quanto-int8"])
def test_quantised_text_encoder_uses_same_names(how: str, flux: Path, bench: Bench):
    cold = bench.run(document(quantised(flux, how, "text_encoder_2")))
    assert held(bench, "text_encoder_2").component.hf_quantizer is not None
    assert same(cold, bench.run(document(quantised(flux, how, "text_encoder_2"))))


def test_quantisation_is_part_of_the_key(flux: Path, bench: Bench):
    documents = {
        how: bench.plan(bench.write(document(quantised(flux, how)), how))
        for how in ("nf4", "sdnq-uint4")
    }
    first = bench.run(documents["nf4"])
    other = bench.run(documents["sdnq-uint4"])
    assert list(other.success.loaded) == ["transformer of flux (bfloat16, SDNQ uint4)"]
    back = bench.run(documents["nf4"])
    assert back.success.loaded == ()
    assert same(first, back)
    assert not same(first, other)
    twice = quantised(flux, "nf4") | {"name": "again"}
    both = bench.run(document(quantised(flux, "nf4"), twice))
    assert both.success.loaded == ()


@pytest.mark.parametrize("how", QUANTISED)
def test_quantised_size_is_estimated_from_headers(how: str, tmp_path: Path):
    """For a model whose weights are mostly in quantised layers, as in real ones."""
    folder = tmp_path / "wide"
    wide = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=128,
        num_attention_heads=2, joint_attention_dim=256, pooled_projection_dim=256,
    )  # fmt: skip
    wide.to(torch.bfloat16).save_pretrained(folder)
    config_type, arguments = QUANTISED[how]
    quantiser = QUANTISERS[config_type.rpartition(".")[2]]
    wanted = quantisation(quantiser, arguments)
    part = part_in(folder, ModelSource(model="wide", folder=str(folder)), wanted)
    loaded = _from_pretrained(part, Device("cpu"), lambda: None)
    assert part.weight_bytes == pytest.approx(held_bytes(loaded), rel=0.1)
    assert part.weight_bytes == component_bytes(folder, None, "bfloat16", wanted)


@pytest.mark.parametrize("how", ["nf4", "torchao-int8", "sdnq-int8"])
def test_lora_on_quantised_weights_leaves_no_trace(
    how: str, flux: Path, tmp_path: Path, bench: Bench
):
    build_lora(flux, tmp_path / "lora" / "drawing.safetensors", seed=1)
    lora = {"model_name": str(tmp_path / "lora"), "weight_name": "drawing.safetensors"}
    without = bench.run(bench.plan(bench.write(document(quantised(flux, how)), "without")))
    drawing = bench.plan(bench.write(document(quantised(flux, how, loras=[lora])), "with"))
    adapted = bench.run(drawing)
    assert adapted.success.loaded == ()
    assert not same(without, adapted)
    assert same(without, bench.run(bench.plan(bench.folder / "without.json")))
    assert same(adapted, bench.run(drawing))


def test_lora_on_packed_weights_error_has_a_hint(flux: Path, tmp_path: Path, bench: Bench):
    build_lora(flux, tmp_path / "lora" / "drawing.safetensors", seed=1)
    lora = {"model_name": str(tmp_path / "lora"), "weight_name": "drawing.safetensors"}
    ended = bench.run(document(quantised(flux, "sdnq-uint4", loras=[lora]))).terminal
    assert ended.type == "run_failed"
    assert ended.error.kind == "LoadError"
    assert "weights of 8 bits or another quantiser may take it" in ended.error.hint
    # No trace of it is left.
    plain = document(quantised(flux, "sdnq-uint4"))
    again = bench.run(plain)
    bench.free()
    assert same(again, bench.run(plain))


def test_quantised_denoiser_is_intact_after_cancel(flux: Path, bench: Bench):
    wanted = document(quantised(flux, "sdnq-uint4"))
    cold = bench.run(wanted)
    bench.when = lambda event: (
        bench.cancel(event.run_id) if isinstance(event, StepProgress) else None
    )
    assert bench.run(wanted).terminal.type == "run_cancelled"
    bench.when = lambda _event: None
    after = bench.run(wanted)
    assert after.success.loaded == ()
    assert same(cold, after)


@pytest.mark.parametrize(
    ("how", "component"),
    [
        ("nf4", "transformer"),
        ("torchao-int8", "transformer"),
        ("sdnq-uint4", "transformer"),
        ("quanto-int8", "transformer"),
        ("bnb-int8", "text_encoder_2"),
        ("quanto-int8", "text_encoder_2"),
    ],
)
def test_cancel_during_quantisation_ends_run(how: str, component: str, flux: Path, bench: Bench):
    wanted = document(quantised(flux, how, component))
    cold = bench.run(wanted)
    bench.free()

    def cancel(event: Event) -> None:
        if isinstance(event, Loading) and event.component == component:
            bench.cancel(event.run_id)

    bench.when = cancel
    ended = bench.run(wanted).terminal
    bench.when = lambda _event: None
    assert isinstance(ended, RunCancelled)
    assert not any(e.title.startswith(f"{component} of") for e in bench.runner.residency.entries)
    assert same(cold, bench.run(wanted))


@pytest.mark.parametrize("how", [None, "nf4", "torchao-int8", "sdnq-uint4", "quanto-int8"])
def test_interrupted_load_does_not_affect_the_next(how: str | None, flux: Path):
    part = flux_part(flux, "transformer", how)
    asked = 0

    def count() -> None:
        nonlocal asked
        asked += 1

    def state() -> list[torch.Tensor]:
        module = _from_pretrained(part, Device("cpu"), count)
        return [tensor for each in module.parameters() for tensor in _plain_tensors(each)]

    def break_off() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Cancelled

    whole = state()
    calls = asked
    assert calls > len(whole)
    for eighth in range(8):
        left = eighth * calls // 8
        with pytest.raises(Cancelled):
            _from_pretrained(part, Device("cpu"), break_off)
        assert torch.get_default_dtype() == torch.float32
        for again, before in zip(state(), whole, strict=True):
            assert torch.equal(again.view(torch.uint8), before.view(torch.uint8))


def part_in(folder: Path, source: ModelSource, wanted: Quantisation | None = None) -> Part:
    """Returns a Flux denoiser in this folder, named after it."""
    kind = "diffusers.FluxTransformer2DModel"
    return part_of(in_a_folder(folder.name, kind, folder, "bfloat16", source, wanted))


def flux_part(flux: Path, component: str, how: str | None) -> Part:
    wanted = None
    if how is not None:
        config_type, arguments = QUANTISED[how]
        wanted = quantisation(QUANTISERS[config_type.rpartition(".")[2]], arguments)
    source = ModelSource(model="flux", folder=str(flux))
    return part_in(flux / component, source, wanted)


def test_quantised_weights_load_to_accelerator_and_move_to_ram(flux: Path, tmp_path: Path):
    device = Accelerator()
    bench = Bench(tmp_path, device)
    cold = bench.run(document(quantised(flux, "sdnq-uint4")))
    entry = held(bench, "transformer")
    assert entry.place == "device"
    assert ("FluxTransformer2DModel", "device") not in device.moves
    bench.runner.placement.move_off_device([entry.key], "for the test")
    assert (entry.place, entry.bytes_in("ram")) == ("ram", entry.weight_bytes)
    warm = bench.run(document(quantised(flux, "sdnq-uint4")))
    assert warm.success.loaded == ()
    assert same(cold, warm)


@pytest.mark.parametrize("how", ["nf4", "bnb-int8", "torchao-int8", "sdnq-uint4", "quanto-int8"])
def test_quantised_weights_are_offloaded_on_accelerator(how: str, flux: Path, tmp_path: Path):
    """Model offload brings each component back to RAM; the next run takes it from there."""
    bench = Bench(tmp_path, Accelerator())
    wanted = quantised(flux, how)
    apart = bench.run(bench.plan(bench.write(document(wanted), "apart")))
    wanted["pipeline"]["configuration"]["offload"] = "model"
    turns = bench.plan(bench.write(document(wanted), "turns"))
    cold = bench.run(turns)
    assert cold.success.loaded == ()
    assert held(bench, "transformer").place == "ram"
    assert same(apart, cold)
    assert same(cold, bench.run(turns))
    assert same(apart, bench.run(bench.plan(bench.folder / "apart.json")))


def test_prequantised_weights_are_loaded_as_they_are(flux: Path, tmp_path: Path, bench: Bench):
    whole = bench.run(document(quantised(flux, None)))
    bench.run(document(quantised(flux, "sdnq-uint4")))
    published = shutil.copytree(flux, tmp_path / "published")
    shutil.rmtree(published / "transformer")
    held(bench, "transformer").component.save_pretrained(published / "transformer")
    bench.free()
    cold = bench.run(document(quantised(published, None)))
    entry = held(bench, "transformer")
    assert entry.component.hf_quantizer is not None
    assert entry.weight_bytes == held_bytes(entry.component)
    assert not same(whole, cold)
    bench.free()
    assert same(cold, bench.run(document(quantised(published, None))))
    # The published quantisation stays, whatever else the document asks for.
    assert bench.run(document(quantised(published, "nf4"))).success.loaded == ()


def test_unknown_quantiser_is_refused_by_name(flux: Path, tmp_path: Path):
    """For a model that was not on this machine when its workflow was planned."""
    published = shutil.copytree(flux / "transformer", tmp_path / "transformer")
    config = published / "config.json"
    stored = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "svdquant"}}
    config.write_text(json.dumps(stored))
    source = ModelSource(model="owner/name")
    with pytest.raises(LoadError, match="'svdquant', which is not supported"):
        part_in(published, source)


def test_sdnq_optimize_is_skipped_with_warning_without_gpu(
    flux: Path, bench: Bench, caplog: pytest.LogCaptureFixture
):
    plain = bench.run(document(quantised(flux, "sdnq-uint4")))
    wanted = quantised(flux, "sdnq-uint4")
    wanted["pipeline"]["configuration"]["sdnq_optimize"] = ["transformer"]
    optimised = bench.run(document(wanted))
    assert optimised.success.loaded == ()
    assert same(plain, optimised)
    assert "sdnq_optimize is skipped: it needs a GPU and triton" in caplog.text
    wanted["pipeline"]["configuration"]["sdnq_optimize"] = ["transfomer"]
    error = bench.refused(document(wanted))
    assert error.hint == "Did you mean 'transformer'?"


def test_sdnq_matmul_is_part_of_the_key(flux: Path):
    """A GPU is needed only to make it worth while."""
    quantiser = QUANTISERS["SDNQConfig"]
    wanted = quantisation(quantiser, QUANTISED["sdnq-uint4"][1])
    source = ModelSource(model="flux", folder=str(flux))
    part = part_in(flux / "transformer", source, wanted)
    loaded = _from_pretrained(replace(part, sdnq_matmul=True), Device("cpu"), lambda: None)
    layers = [m.sdnq_dequantizer for m in loaded.modules() if hasattr(m, "sdnq_dequantizer")]
    assert layers
    assert all(layer.use_quantized_matmul for layer in layers)


def test_hub_kernels_are_not_run_if_their_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A fake `kernels` records its use: bitsandbytes imports it on CPUs with AVX512-BF16."""
    package = tmp_path / "installed" / "kernels"
    package.mkdir(parents=True)
    told = tmp_path / "imported"
    (package / "__init__.py").write_text(f"open({str(told)!r}, 'w').close()")
    monkeypatch.syspath_prepend(package.parent)
    with started_engine(tmp_path / "outputs") as engine:
        assert run(engine, Bench(tmp_path).write(document())).success
    assert not told.exists()
