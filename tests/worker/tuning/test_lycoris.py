"""LoHa, LoKr and DoRA change the weights as their papers say, for their step only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from app.models.lycoris import diffusers_name
from app.worker.tuning.lycoris import load_decomposed
from tests.doubles.accelerator import Accelerator
from tests.engines import notices
from tests.standins.flux import build_flux
from tests.standins.lora import build_lora
from tests.standins.lycoris import ALPHA, RANK, Factors, Writer, save_lycoris, shape_of
from tests.worker.bench import SHAPES, Bench, Document, document, pixels, same, step

# diffusers' scheduler passes tensors to NumPy in a deprecated way.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)
OUTLINE = {"model_name": f"{SHAPES}/outline", "scale": 0.7}
SIDE = {"width": 16, "height": 16}
LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "down_blocks.0.resnets.0.conv1"
POINT = "down_blocks.1.attentions.0.proj_in"
CHANGED = (LINEAR, CONV, POINT, "time_embedding.linear_1", "conv_in", "conv_out",
           "up_blocks.0.upsamplers.0.conv", "down_blocks.1.resnets.0.time_emb_proj")  # fmt: skip
SCALE = ALPHA / RANK


def drawing(model: Path, *loras: dict[str, Any], kind: str = "") -> Document:
    loading = {} if kind else {"safety_checker": None}
    blocks = {"loras": list(loras)} if loras else {}
    return document(step(model=model, kind=kind, loading=loading, blocks=blocks, **SIDE), id="x")


def stock(model: Path, kind: str = "") -> Any:
    if kind:
        pipeline = StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by(pipeline: Any) -> np.ndarray:
    made = pipeline(
        "a red circle", generator=torch.Generator("cpu").manual_seed(7), num_inference_steps=2,
        **SIDE,
    )  # fmt: skip
    return np.asarray(made.images[0])


# --- the weights, by hand ------------------------------------------------------------------------


def of_lora(f: Factors, shape: tuple[int, ...]) -> torch.Tensor:
    return (f["lora_up.weight"].flatten(1) @ f["lora_down.weight"].flatten(1)).reshape(shape)


def of_loha(f: Factors, shape: tuple[int, ...]) -> torch.Tensor:
    if "hada_t1" in f:
        one, two = (
            torch.einsum("ijkl,ip,jr->prkl", f[f"hada_t{n}"], f[f"hada_w{n}_a"], f[f"hada_w{n}_b"])
            for n in "12"
        )
        return one * two
    one, two = (f[f"hada_w{n}_a"] @ f[f"hada_w{n}_b"] for n in "12")
    return (one * two).reshape(shape)


def of_lokr(f: Factors, shape: tuple[int, ...]) -> torch.Tensor:
    one = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    out, into = shape[0] // 2, shape[1] // 4
    if "lokr_w2" in f:
        two = f["lokr_w2"]
    elif "lokr_t2" in f:
        two = torch.einsum("ijkl,ip,jr->prkl", f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
    else:
        two = f["lokr_w2_a"] @ f["lokr_w2_b"]
    two = two.reshape(out, into, *shape[2:])
    change = torch.empty(shape)
    for row in range(2):
        for column in range(4):
            block = one[row, column] * two
            change[row * out : (row + 1) * out, column * into : (column + 1) * into] = block
    return change


def renormalised(weight: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """Each row (or column) of the weight, with another length."""
    axis = 0 if magnitudes.shape[0] == weight.shape[0] else 1
    rows = weight.movedim(axis, 0)
    long = [
        row * length / row.norm() for row, length in zip(rows, magnitudes.flatten(), strict=True)
    ]
    return torch.stack(long).movedim(0, axis)


def is_conv(layer: Any) -> bool:
    """True for one that LyCORIS may give a core."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


KINDS: dict[str, tuple[Callable[[Writer, Any], Factors], Any]] = {
    "loha": (lambda w, layer: w.loha(shape_of(layer)), of_loha),
    "loha with a core": (lambda w, layer: w.loha(shape_of(layer), core=is_conv(layer)), of_loha),
    "lokr": (lambda w, layer: w.lokr(shape_of(layer)), of_lokr),
    "lokr of parts": (lambda w, layer: w.lokr(shape_of(layer), "two", "two"), of_lokr),
    "lokr of parts and a whole": (lambda w, layer: w.lokr(shape_of(layer), "two"), of_lokr),
    "lokr with a core": (
        lambda w, layer: w.lokr(shape_of(layer), "whole", "core" if is_conv(layer) else "two"),
        of_lokr,
    ),
    "dora": (
        lambda w, layer: w.lora(shape_of(layer)) | w.magnitudes(layer.weight),
        of_lora,
    ),
    "dora of the inputs": (
        lambda w, layer: w.lora(shape_of(layer)) | w.magnitudes(layer.weight, of_inputs=True),
        of_lora,
    ),
    "dora of a loha": (
        lambda w, layer: w.loha(shape_of(layer)) | w.magnitudes(layer.weight),
        of_loha,
    ),
}  # fmt: skip


def divisible(layer: Any) -> bool:
    """A LoKr of 2 x 4 parts fits."""
    return layer.weight.shape[0] % 2 == 0 and layer.weight.shape[1] % 4 == 0


def by_hand(layer: Any, factors: Factors, product: Any, strength: float) -> None:
    """Changes the layer's weight."""
    weight = layer.weight.detach()
    ranked = not ("lokr_w1" in factors and "lokr_w2" in factors)
    changed = weight + product(factors, shape_of(layer)) * (SCALE if ranked else 1)
    if "dora_scale" in factors:
        changed = renormalised(changed, factors["dora_scale"])
    with torch.no_grad():
        layer.weight.copy_(weight + strength * (changed - weight))


def change(
    pipeline: Any,
    file: Path,
    kind: str,
    strength: float,
    *,
    of: str,
    names: Callable[[str], str],
    paths: tuple[str, ...],
) -> None:
    """Writes a file that changes layers of a component, and changes them by hand."""
    write, product = KINDS[kind]
    writer, component = Writer(), getattr(pipeline, of)
    modules = {}
    for path in paths:
        layer = component.get_submodule(path)
        if kind.startswith("lokr") and not divisible(layer):
            continue
        modules[names(path)] = factors = write(writer, layer)
        by_hand(layer, factors, product, strength)
    assert modules
    save_lycoris(file, modules)


def close(made: list[np.ndarray], wanted: np.ndarray) -> bool:
    # The order of additions differs.
    return bool(np.abs(made[0].astype(int) - wanted.astype(int)).max() <= 1)


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_file_changes_the_unet_as_computed_by_hand(
    bench: Bench, sd: Path, kind: str, strength: float
):
    pipeline = stock(sd)
    plain = drawn_by(pipeline)
    file = bench.folder / "x.safetensors"
    change(pipeline, file, kind, strength, of="unet", paths=CHANGED,
           names=lambda path: f"lora_unet_{path.replace('.', '_')}")  # fmt: skip
    lora = {"model_name": "./x.safetensors", "scale": strength}
    finished = bench.run(drawing(sd, lora))
    assert close(pixels(finished), drawn_by(pipeline))
    assert not close([plain], drawn_by(pipeline))
    assert notices(finished) == []


@pytest.mark.parametrize("kind", ["loha", "lokr", "dora"])
def test_module_output_is_that_of_the_changed_weight(bench: Bench, sd: Path, kind: str):
    pipeline, changed = stock(sd), stock(sd)
    file = bench.folder / "x.safetensors"
    change(changed, file, kind, 0.5, of="unet", paths=(LINEAR, CONV),
           names=lambda path: f"lora_unet_{path.replace('.', '_')}")  # fmt: skip
    assert load_decomposed(pipeline, file, "x") == []
    pipeline.set_adapters(["x"], [0.5])
    for path in (LINEAR, CONV):
        layer, by_hands = pipeline.unet.get_submodule(path), changed.unet.get_submodule(path)
        taken = (2, by_hands.in_channels, 5, 5) if path == CONV else (2, 3, by_hands.in_features)
        given = torch.randn(*taken, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            assert torch.allclose(layer(given), by_hands(given), atol=1e-4)


TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1")


@pytest.mark.parametrize("kind", ["loha", "lokr of parts", "dora"])
def test_file_changes_the_text_encoder_as_computed_by_hand(bench: Bench, sd: Path, kind: str):
    pipeline = stock(sd)
    plain = drawn_by(pipeline)
    change(pipeline, bench.folder / "x.safetensors", kind, 0.8, of="text_encoder", paths=TEXT,
           names=lambda path: f"lora_te_text_model_{path.replace('.', '_')}")  # fmt: skip
    made = pixels(bench.run(drawing(sd, {"model_name": "./x.safetensors", "scale": 0.8})))
    assert close(made, drawn_by(pipeline))
    assert not np.array_equal(plain, made[0])


OF_XL = {
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_1_transformer_blocks_0_attn1_to_q":
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "input_blocks_8_1_proj_in": "down_blocks.2.attentions.1.proj_in",
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_2_0_emb_layers_1": "down_blocks.0.resnets.1.time_emb_proj",
    "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "middle_block_0_out_layers_3": "mid_block.resnets.0.conv2",
    "middle_block_1_proj_out": "mid_block.attentions.0.proj_out",
    "middle_block_2_in_layers_2": "mid_block.resnets.1.conv1",
    "output_blocks_0_1_transformer_blocks_9_ff_net_0_proj":
        "up_blocks.0.attentions.0.transformer_blocks.9.ff.net.0.proj",
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_5_0_in_layers_2": "up_blocks.1.resnets.2.conv1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "down_blocks_1_attentions_0_proj_in": "down_blocks.1.attentions.0.proj_in",
}  # fmt: skip
"""Modules of Stable Diffusion XL, of which a block has two layers, by their original names."""


@pytest.mark.parametrize("name", OF_XL)
def test_original_name_of_a_module_is_that_of_diffusers(name: str):
    assert diffusers_name(name, layers_per_block=2) == OF_XL[name].replace(".", "_")


OF_TINY_XL = {
    # Its blocks have one layer.
    "lora_unet_input_blocks_3_1_transformer_blocks_1_attn2_to_v":
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_v",
    "lora_unet_input_blocks_2_0_op": "down_blocks.0.downsamplers.0.conv",
    "lora_unet_middle_block_0_in_layers_2": "mid_block.resnets.0.conv1",
    "lora_unet_output_blocks_1_1_proj_in": "up_blocks.0.attentions.1.proj_in",
    "lora_unet_output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv",
    "lora_unet_label_emb_0_2": "add_embedding.linear_2",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["loha", "lokr of parts", "dora"])
def test_file_of_sdxl_changes_unet_and_both_encoders(bench: Bench, sdxl: Path, kind: str):
    pipeline = stock(sdxl, "XL")
    plain = drawn_by(pipeline)
    write, product = KINDS[kind]
    writer, modules = Writer(), {}
    layers = {name: pipeline.unet.get_submodule(path) for name, path in OF_TINY_XL.items()}
    for path in TEXT:
        short = path.replace(".", "_")
        for number, encoder in ((1, pipeline.text_encoder), (2, pipeline.text_encoder_2)):
            inner = getattr(encoder, "text_model", encoder)
            layers[f"lora_te{number}_text_model_{short}"] = inner.get_submodule(path)
    for name, layer in layers.items():
        modules[name] = write(writer, layer)
        by_hand(layer, modules[name], product, 1)
    save_lycoris(bench.folder / "x.safetensors", modules)
    finished = bench.run(drawing(sdxl, {"model_name": "./x.safetensors"}, kind="XL"))
    assert close(pixels(finished), drawn_by(pipeline))
    assert not close([plain], drawn_by(pipeline))
    assert notices(finished) == []


# --- beside other LoRAs, and afterwards ----------------------------------------------------------


@pytest.fixture
def files(bench: Bench) -> dict[str, dict[str, Any]]:
    """A file of each kind for the bundled model, and its own LoRA."""
    unet = bench.assembled(document(step())).unet
    (other, layer), *_ = [
        (path, each)
        for path, each in unet.named_modules()
        if isinstance(each, nn.Linear) and path.endswith("attn1.to_q")
    ]
    for name, (write, _) in KINDS.items():
        module = f"lora_unet_{other.replace('.', '_')}"
        save_lycoris(bench.folder / f"{name}.safetensors", {module: write(Writer(), layer)})
    named = {name: {"model_name": f"./{name}.safetensors"} for name in KINDS}
    return {**named, "plain": OUTLINE}


def drawn(bench: Bench, *loras: dict[str, Any]) -> Any:
    return bench.run(document(step(blocks={"loras": list(loras)} if loras else {})))


ORDERS = [
    ("loha", "plain"), ("plain", "loha"), ("plain", "lokr", "dora"), ("dora", "plain", "loha"),
    ("lokr",),
]  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_kinds_work_together_and_leave_nothing(bench: Bench, files: Any, order: tuple[str, ...]):
    histories = [(), order, order[:1], (), order[::-1], order[-1:], order]
    for names in histories:
        made = drawn(bench, *(files[name] for name in names))
        fresh = Bench(bench.folder)
        assert same(made, drawn(fresh, *(files[name] for name in names))), names
    weak = [{**files[name], "scale": 0.3} for name in order]
    assert same(drawn(bench, *weak), drawn(Bench(bench.folder), *weak))


def test_kinds_stay_loaded(bench: Bench, files: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "app")
    for scale in (1.0, 1.0, 0.5):
        drawn(bench, {**files["loha"], "scale": scale}, files["plain"])
    lines = [line for line in caplog.messages if line.startswith("Loading LoRA")]
    assert len(lines) == 2
    assert bench.runner.loras.cache.held_bytes > 0
    bench.free()
    assert bench.runner.loras.cache.held_bytes == 0


# --- what is refused or left out -----------------------------------------------------------------


def test_layers_that_match_nothing_are_told_each_time(bench: Bench, sd: Path):
    layer = stock(sd).unet.get_submodule(LINEAR)
    modules = {
        f"lora_unet_{LINEAR.replace('.', '_')}": Writer().loha(shape_of(layer)),
        "lora_unet_down_blocks_7_resnets_0_conv1": Writer().loha((8, 8, 3, 3)),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1": Writer().loha((8, 8)),
    }
    save_lycoris(bench.folder / "x.safetensors", modules)
    for _ in range(2):
        finished = bench.run(drawing(sd, {"model_name": "./x.safetensors"}))
        assert notices(finished) == [
            "2 of the 3 layers of 'x.safetensors' match nothing in this model."
        ]


def test_layers_of_a_plain_lora_that_match_nothing_are_told(bench: Bench, sd: Path):
    writer, modules = Writer(), {}
    for path in (LINEAR, "down_blocks.7.attentions.0.transformer_blocks.0.attn2.to_k"):
        modules[f"lora_unet_{path.replace('.', '_')}"] = writer.lora((32, 32))
    modules["lora_te2_text_model_encoder_layers_0_mlp_fc1"] = writer.lora((32, 32))
    save_lycoris(bench.folder / "x.safetensors", modules)
    for _ in range(2):
        finished = bench.run(drawing(sd, {"model_name": "./x.safetensors"}))
        assert notices(finished) == [
            "2 of the 3 layers of 'x.safetensors' match nothing in this model."
        ]


@pytest.mark.parametrize("model", ["bundled", "flux", "sdxl"])
def test_lora_that_matches_has_no_notice(bench: Bench, sdxl: Path, model: str):
    if model == "bundled":
        assert notices(bench.run(document(step(blocks={"loras": [OUTLINE]})))) == []
    elif model == "sdxl":
        modules = {
            name: Writer().lora(shape_of(stock(sdxl, "XL").unet.get_submodule(path)))
            for name, path in OF_TINY_XL.items()
            if path.endswith("to_v")
        }
        save_lycoris(bench.folder / "x.safetensors", modules)
        plain = drawing(sdxl, {"model_name": "./x.safetensors"}, kind="XL")
        assert notices(bench.run(plain)) == []
    else:
        assert notices(bench.run(flux(bench.folder))) == []


def flux(folder: Path, dora: bool = False) -> Document:
    """A drawing with a LoRA for a Flux model, which diffusers names in its own way."""
    build_flux(folder / "flux")
    build_lora(folder / "flux", folder / "x.safetensors")
    if dora:
        weights = load_file(folder / "x.safetensors")
        first = next(iter(weights)).partition(".lora_")[0]
        weights[f"{first}.dora_scale"] = torch.ones(1)
        save_file(weights, folder / "x.safetensors")
    blocks = {
        "loras": [{"model_name": "./x.safetensors"}],
        "configuration": {"component_type": "FluxPipeline"},
    }
    return document(step(model=folder / "flux", blocks=blocks, **SIDE), id="flux")


def test_magnitudes_that_diffusers_leaves_out_are_told(bench: Bench):
    assert notices(bench.run(flux(bench.folder, dora=True))) == [
        "'x.safetensors' is a DoRA: its magnitudes are left out, and it is applied as a plain LoRA."
    ]


def test_file_of_other_sizes_is_refused(bench: Bench, sd: Path):
    # The width of the text would be told while the run is planned.
    module = f"lora_unet_{LINEAR.replace('attn2', 'attn1').replace('.', '_')}"
    save_lycoris(bench.folder / "x.safetensors", {module: Writer().loha((8, 8))})
    failed = bench.run(drawing(sd, {"model_name": "./x.safetensors"})).terminal
    assert failed.type == "run_failed"
    assert failed.error.message == (
        f"Step 'draw': The LoHa file 'x.safetensors' is not for this model: of '{module}' it does"
        " not make a weight of [32, 32]."
    )
    assert same(bench.run(drawing(sd)), Bench(bench.folder).run(drawing(sd)))


def test_kinds_work_with_offload(tmp_path: Path, sd: Path):
    bench = Bench(tmp_path, Accelerator())
    layer = stock(sd).unet.get_submodule(LINEAR)
    module = f"lora_unet_{LINEAR.replace('.', '_')}"
    factors = Writer().lora(shape_of(layer)) | Writer(1).magnitudes(layer.weight)
    save_lycoris(bench.folder / "x.safetensors", {module: factors})
    wanted = drawing(sd, {"model_name": "./x.safetensors"})
    there = bench.run(wanted)
    wanted["steps"][0]["pipeline"]["configuration"]["offload"] = "model"
    for _ in range(2):
        assert same(there, bench.run(wanted))
