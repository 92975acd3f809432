"""A LoRA or a ControlNet is compared with the denoiser by the texts that both attend to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.models.base_family import attended_widths, base_family
from app.models.made_for import MadeFor, Unfit, check_made_for, of_file, of_folder, of_shapes
from tests.plan_bench import safetensors

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
SD15 = MadeFor("dream.safetensors", "SD 1.5", frozenset({768}))


@pytest.mark.parametrize(
    "factors",
    [
        {f"{UNET}_attn2_to_k.lora_down.weight": (4, 2048)},
        {f"{UNET}_attn2_to_k.hada_w1_b": (4, 2048), f"{UNET}_attn2_to_k.hada_w1_a": (640, 4)},
        {f"{UNET}_attn2_to_k.lokr_w1": (4, 16), f"{UNET}_attn2_to_k.lokr_w2": (160, 128)},
        {f"{UNET}_attn2_to_k.lokr_w1_b": (2, 16), f"{UNET}_attn2_to_k.lokr_w2_b": (4, 128)},
        {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 2048)},
    ],
    ids=["LoRA", "LoHa", "LoKr", "LoKr of parts", "peft"],
)  # fmt: skip
def test_file_for_sdxl_is_not_for_stable_diffusion_1(factors: dict[str, tuple[int, ...]]):
    made_for = of_shapes("ink.safetensors", factors, is_lora=True)
    with pytest.raises(Unfit) as raised:
        check_made_for("LoRA", made_for, SD15)
    assert raised.value.message == (
        "The LoRA 'ink.safetensors' was made for SDXL, but the family of 'dream.safetensors' is"
        " SD 1.5."
    )
    check_made_for("LoRA", made_for, MadeFor("realistic", "SDXL", frozenset({2048})))


def test_file_that_does_not_tell_its_family_is_not_refused():
    for name in ("conv_in.lora_down.weight", f"{UNET}_attn1_to_k.lora_down.weight", "x"):
        check_made_for("LoRA", of_shapes("a", {name: (4, 320)}, is_lora=True), SD15)


def test_layers_of_videos_attend_to_no_text():
    name = "unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    assert attended_widths({name: (4, 320)}) == frozenset()


def test_inpainting_models_take_the_loras_of_their_family():
    unet = "model.diffusion_model.input_blocks."
    shapes = {
        f"{unet}0.0.weight": (320, 9, 3, 3),
        f"{unet}1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    }
    assert base_family(shapes) == "SD 1.5 inpainting"
    check_made_for("LoRA", SD15, of_shapes("inpaint", shapes))


def test_widths_are_named_where_the_families_are_not_known():
    with pytest.raises(Unfit, match="texts have 96 numbers for each token; those of 'b' have 32"):
        check_made_for("LoRA", MadeFor("a", "", frozenset({96})), MadeFor("b", "", frozenset({32})))


def test_folder_and_file_tell_their_widths(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"cross_attention_dim": 2048}))
    assert of_folder("xl", tmp_path) == ("xl", "SDXL", frozenset({2048}))
    assert of_folder("none", tmp_path / "none") == ("none", "", frozenset())
    other = safetensors(tmp_path / "a.safetensors", weight=4)
    assert of_file(other) == ("a.safetensors", "", frozenset())
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x02}")
    assert of_file(tmp_path / "a.ckpt").widths == frozenset()
    assert of_file(tmp_path / "missing.safetensors").widths == frozenset()
