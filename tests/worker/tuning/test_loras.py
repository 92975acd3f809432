"""LoRAs stay with the components they were loaded for, and change nothing else."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from app.errors import BadRequest
from app.protocol import DropComponents, StepProgress
from tests.doubles.accelerator import Accelerator
from tests.standins import build_sd
from tests.standins.flux import build_flux
from tests.standins.lora import build_lora
from tests.standins.lycoris import Writer, save_lycoris, shape_of
from tests.worker.bench import SHAPES, Bench, Document, document, pixels, same, step

OUTLINE = next((Path(SHAPES) / "outline").glob("*.safetensors"))
PLAIN = document(step(), id="plain")


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """A folder of LoRAs a, b and c: the bundled one, three times as strong in turn."""
    folder = tmp_path / "loras"
    folder.mkdir()
    weights = load_file(OUTLINE)
    for strength, name in enumerate("abc", start=1):
        changed = {key: tensor * strength for key, tensor in weights.items()}
        save_file(changed, folder / f"{name}.safetensors")
    return folder


def with_loras(folder: Path, **scales: float) -> Document:
    """Returns the plain document with these LoRAs, in order."""
    blocks = [
        {"model_name": str(folder), "weight_name": f"{name}.safetensors", "adapter_name": name}
        | {"scale": scale}
        for name, scale in scales.items()
    ]
    return document(step(blocks={"loras": blocks}), id="with loras")


def loaded(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns the names of the LoRAs loaded since the last call."""
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Loading LoRA")]
    caplog.clear()
    return [line.removeprefix("Loading LoRA: ").removesuffix(".safetensors") for line in lines]


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[Document], list[np.ndarray]]:
    """Returns what a new worker draws for a document."""
    return lambda wanted: pixels(Bench(tmp_path).run(wanted))


def wrappers(bench: Bench) -> list[str]:
    """Returns which held components have wrappers, or notes about LoRAs, on them."""
    return [
        entry.title
        for entry in bench.runner.residency.entries
        if hasattr(entry.component, "peft_config")
        or (
            isinstance(entry.component, torch.nn.Module)
            and any(isinstance(each, BaseTunerLayer) for each in entry.component.modules())
        )
    ]


def test_warm_run_loads_no_lora(
    bench: Bench, loras: Path, caplog: pytest.LogCaptureFixture, drawn: Any
):
    caplog.set_level("INFO", "app")
    wanted = with_loras(loras, a=0.7)
    first = pixels(bench.run(wanted))
    assert loaded(caplog) == ["a"]
    again = pixels(bench.run(wanted))
    plain = pixels(bench.run(PLAIN))
    third = pixels(bench.run(wanted))
    assert loaded(caplog) == []
    assert np.array_equal(first, again)
    assert np.array_equal(first, third)
    assert np.array_equal(plain, drawn(PLAIN))
    assert not np.array_equal(plain, first)


def test_other_scale_or_other_order_loads_no_lora(
    bench: Bench, loras: Path, caplog: pytest.LogCaptureFixture, drawn: Any
):
    caplog.set_level("INFO", "app")
    assert bench.run(with_loras(loras, a=0.7, b=0.2)).success
    loaded(caplog)
    for scales in ({"a": 0.3, "b": 0.2}, {"b": 0.5}, {"b": -0.2, "a": 0.7}, {"a": 0.7, "b": 0.2}):
        made = pixels(bench.run(with_loras(loras, **scales)))
        assert loaded(caplog) == []
        assert np.array_equal(made, drawn(with_loras(loras, **scales)))
        loaded(caplog)


def test_change_of_one_of_two_loads_that_one(
    bench: Bench, loras: Path, caplog: pytest.LogCaptureFixture, drawn: Any
):
    caplog.set_level("INFO", "app")
    assert bench.run(with_loras(loras, a=0.7, b=0.2)).success
    loaded(caplog)
    made = pixels(bench.run(with_loras(loras, a=0.7, c=0.2)))
    assert loaded(caplog) == ["c"]
    assert np.array_equal(made, drawn(with_loras(loras, a=0.7, c=0.2)))


def test_components_have_their_own_layers_between_runs(bench: Bench, loras: Path):
    assert bench.run(PLAIN).success
    (unet,) = [e.component for e in bench.runner.residency.entries if e.title.startswith("unet")]
    before = [*unet.named_modules()], {name: id(weight) for name, weight in unet.named_parameters()}
    inside: list[list[str]] = []
    bench.when = lambda event: (
        inside.append(wrappers(bench)) if isinstance(event, StepProgress) else None
    )
    assert bench.run(with_loras(loras, a=0.7)).success
    assert inside[0] == ["unet of shapes (float32)"]
    assert wrappers(bench) == []
    after = [*unet.named_modules()], {name: id(weight) for name, weight in unet.named_parameters()}
    assert [name for name, _ in before[0]] == [name for name, _ in after[0]]
    assert before[1] == after[1]


def test_cancelled_run_leaves_own_layers(bench: Bench, loras: Path, drawn: Any):
    wanted = with_loras(loras, a=0.7)
    assert bench.run(wanted).success
    bench.when = lambda event: (
        bench.cancel(bench.run_id) if isinstance(event, StepProgress) else None
    )
    assert bench.run(wanted).terminal.type == "run_cancelled"
    bench.when = lambda _event: None
    assert wrappers(bench) == []
    assert np.array_equal(pixels(bench.run(PLAIN)), drawn(PLAIN))
    assert np.array_equal(pixels(bench.run(wanted)), drawn(wanted))


def test_least_recently_used_lora_is_dropped_beyond_the_bound(
    tmp_path: Path, loras: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "app")
    one_bytes = sum(tensor.nbytes for tensor in load_file(loras / "a.safetensors").values())
    bench = Bench(tmp_path, lora_bytes=2 * one_bytes)
    for name in ("a", "b", "a", "c"):
        assert bench.run(with_loras(loras, **{name: 1.0})).success
    assert loaded(caplog) == ["a", "b", "c"]
    assert bench.runner.loras.cache.held_bytes == 2 * one_bytes
    assert bench.run(with_loras(loras, a=1.0)).success
    assert loaded(caplog) == []
    assert bench.run(with_loras(loras, b=1.0)).success
    assert loaded(caplog) == ["b"]


def test_without_room_a_lora_is_loaded_for_each_run(
    tmp_path: Path, loras: Path, caplog: pytest.LogCaptureFixture, drawn: Any
):
    caplog.set_level("INFO", "app")
    bench, wanted = Bench(tmp_path, lora_bytes=0), with_loras(loras, a=0.7, b=0.1)
    made = [pixels(bench.run(wanted)) for _ in range(2)]
    assert loaded(caplog) == ["a", "b", "a", "b"]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], drawn(wanted))
    assert bench.runner.loras.cache.held_bytes == 0


@pytest.mark.parametrize("how", ["free", "drop"])
def test_lora_leaves_with_its_component(bench: Bench, loras: Path, how: str):
    assert bench.run(with_loras(loras, a=0.7)).success
    (unet,) = [e for e in bench.runner.residency.entries if e.title.startswith("unet")]
    gone = weakref.ref(unet.component)
    assert bench.runner.loras.cache.held_bytes > 0
    key = unet.key
    del unet
    if how == "free":
        bench.free()
    else:
        bench.runner.drop(DropComponents(keys=(key,), reason="the test says so"))
    assert bench.runner.loras.cache.held_bytes == 0
    gc.collect()
    # A dropped component's shell stays, without weights.
    component = gone()
    assert component is None or all(weight.is_meta for weight in component.parameters())


def test_replaced_file_is_loaded_again(
    bench: Bench, loras: Path, caplog: pytest.LogCaptureFixture, drawn: Any
):
    caplog.set_level("INFO", "app")
    wanted = with_loras(loras, a=0.7)
    before = pixels(bench.run(wanted))
    shutil.copyfile(loras / "c.safetensors", loras / "a.safetensors")
    loaded(caplog)
    after = pixels(bench.run(wanted))
    assert loaded(caplog) == ["a"]
    assert not np.array_equal(before, after)
    assert np.array_equal(after, drawn(wanted))


def test_lora_of_the_text_encoder_stays_and_goes_with_it(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, drawn: Any
):
    caplog.set_level("INFO", "app")
    (tmp_path / "loras").mkdir()
    target = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    weights = load_file(OUTLINE)
    unet_down = next(tensor for name, tensor in weights.items() if "lora_A" in name)
    width = bench.assembled(PLAIN).text_encoder.config.hidden_size
    rank, noise = unet_down.shape[0], torch.Generator().manual_seed(1)
    weights[f"{target}.lora_A.weight"] = torch.randn(rank, width, generator=noise)
    weights[f"{target}.lora_B.weight"] = torch.randn(width, rank, generator=noise)
    save_file(weights, tmp_path / "loras" / "both.safetensors")
    wanted = with_loras(tmp_path / "loras", both=0.7)
    made = pixels(bench.run(wanted))
    assert loaded(caplog) == ["both"]
    assert not np.array_equal(made, drawn(document(step(blocks={"loras": [
        {"model_name": str(OUTLINE.parent), "scale": 0.7}]}))))  # fmt: skip
    loaded(caplog)
    assert np.array_equal(pixels(bench.run(wanted)), made)
    assert np.array_equal(pixels(bench.run(PLAIN)), drawn(PLAIN))
    assert loaded(caplog) == []
    (encoder,) = [
        entry.key for entry in bench.runner.residency.entries if "text_encoder" in entry.title
    ]
    bench.runner.drop(DropComponents(keys=(encoder,), reason="the test says so"))
    assert np.array_equal(pixels(bench.run(wanted)), made)
    assert loaded(caplog) == ["both"]


def test_same_file_twice_counts_twice(bench: Bench, loras: Path, drawn: Any):
    twice = [
        {"model_name": str(loras), "weight_name": "a.safetensors", "adapter_name": name}
        | {"scale": 0.5}
        for name in ("one", "two")
    ]
    wanted = document(step(blocks={"loras": twice}), id="twice")
    made = [pixels(bench.run(wanted)) for _ in range(2)]
    assert np.array_equal(made[0], made[1])
    assert np.allclose(made[0], pixels(bench.run(with_loras(loras, a=1.0))), atol=2)


def test_lora_that_replaces_norms_is_not_kept(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    # diffusers copies such norms over the transformer's own, and back when it unloads.
    caplog.set_level("INFO", "app")
    flux, folder = tmp_path / "flux", tmp_path / "loras"
    folder.mkdir()
    build_flux(flux)
    build_lora(flux, folder / "norms.safetensors")
    norm = "transformer.transformer_blocks.0.attn.norm_q.weight"
    own = load_file(next((flux / "transformer").glob("*.safetensors")))
    weights = load_file(folder / "norms.safetensors")
    weights[norm] = own[norm.removeprefix("transformer.")] * 3
    save_file(weights, folder / "norms.safetensors")

    def drawing(**blocks: Any) -> Document:
        made = step(model=flux, blocks=blocks, width=16, height=16)
        made["pipeline"]["configuration"]["component_type"] = "FluxPipeline"
        return document(made, id="norms")

    lora = {"model_name": str(folder), "weight_name": "norms.safetensors"}
    plain = bench.run(drawing())
    normed = bench.run(drawing(loras=[lora]))
    assert same(plain, bench.run(drawing()))
    assert same(normed, bench.run(drawing(loras=[lora])))
    assert not same(plain, normed)
    assert loaded(caplog) == ["norms", "norms"]
    assert bench.runner.loras.cache.held_bytes == 0


def test_lora_with_offload_stays_too(tmp_path: Path, loras: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "app")
    bench, wanted = Bench(tmp_path, Accelerator()), with_loras(loras, a=0.7)
    offloaded = with_loras(loras, a=0.7)
    offloaded["steps"][0]["pipeline"]["configuration"]["offload"] = "model"
    made = [pixels(bench.run(offloaded)) for _ in range(2)]
    assert loaded(caplog) == ["a"]
    assert wrappers(bench) == []
    made += [pixels(bench.run(wanted)), pixels(bench.run(offloaded))]
    for each in made:
        assert np.array_equal(each, made[0])


# --- scales of blocks ----------------------------------------------------------------------------

BY_BLOCK: dict[str, Any] = {
    "unet": {"down": 0.2, "mid": 0.5, "up": {"block_0": [0.1, 0.9]}}, "text_encoder": 0.3,
}  # fmt: skip
ATTENTION = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.0.attentions.1.proj_in",
)


def of_blocks(bench: Bench, model: Path, *others: str) -> Callable[[Any], Document]:
    """Writes a LoRA for attention, the text encoder and these layers; returns its document."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    writer = Writer()
    modules = {
        f"lora_unet_{path.replace('.', '_')}": writer.lora(
            shape_of(pipeline.unet.get_submodule(path))
        )
        for path in (*ATTENTION, *others)
    }
    modules["lora_te_text_model_encoder_layers_0_mlp_fc1"] = writer.lora((32, 32))
    save_lycoris(bench.folder / "x.safetensors", modules)
    size = {"width": 16, "height": 16}

    def made(scale: Any) -> Document:
        blocks = {"loras": [{"model_name": "./x.safetensors", "scale": scale}]}
        loading = {"safety_checker": None}
        return document(step(model=model, loading=loading, blocks=blocks, **size), id="blocks")

    return made


def test_scales_of_blocks_are_those_of_diffusers(bench: Bench, tmp_path: Path):
    build_sd(tmp_path / "sd")
    made = of_blocks(bench, tmp_path / "sd")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd", safety_checker=None)
    pipeline.load_lora_weights(str(bench.folder), weight_name="x.safetensors", adapter_name="x")
    pipeline.set_adapters("x", copy.deepcopy(BY_BLOCK))
    stock = pipeline("a red circle", generator=torch.Generator("cpu").manual_seed(7),
                     num_inference_steps=2, width=16, height=16).images[0]  # fmt: skip
    assert np.array_equal(pixels(bench.run(made(BY_BLOCK)))[0], np.asarray(stock))
    # A change of scales loads nothing, and leaves nothing.
    for scale in (1.0, {"unet": 0.4}, BY_BLOCK, {"text_encoder": 2}):
        assert same(bench.run(made(scale)), Bench(bench.folder).run(made(scale)))


def test_scales_of_blocks_work_with_layers_outside_of_blocks(bench: Bench, tmp_path: Path):
    # diffusers raises IndexError for them.
    build_sd(tmp_path / "sd")
    made = of_blocks(bench, tmp_path / "sd", "time_embedding.linear_1", "conv_in")
    assert not same(bench.run(made(BY_BLOCK)), bench.run(made(1.0)))


def test_wrong_block_is_refused_while_planning(bench: Bench, tmp_path: Path):
    build_sd(tmp_path / "sd")
    made = of_blocks(bench, tmp_path / "sd")
    with pytest.raises(BadRequest) as caught:
        bench.plan(made({"unet": {"down": {"block_5": 1}, "middle": 1}, "text_encoder_2": 1}))
    at = "steps[0].pipeline.loras[0].scale"
    assert {found.place: found.message for found in caught.value.problems} == {
        f"{at}.unet.down.block_5": "There is no 'block_5' in 'down' of this UNet.",
        f"{at}.unet.middle": "A UNet has no part 'middle'.",
        f"{at}.text_encoder_2": "No LoRA of this pipeline changes a 'text_encoder_2'.",
    }
