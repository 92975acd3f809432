"""Scales of a LoRA for parts of a model."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.block_scales import UnetShape, Wrong, mistakes_in, scale_at

SCALE: dict[str, Any] = {
    "text_encoder": 0.5,
    "unet": {"down": 0.2, "mid": [3], "up": {"block_0": [1, 2, 4], "block_1": 7}},
}


@pytest.mark.parametrize(
    ("component", "path", "scale"),
    [
        ("text_encoder", "encoder.layers.0.mlp.fc1", 0.5),
        ("text_encoder_2", "encoder.layers.0.mlp.fc1", 1.0),
        ("unet", "conv_in", 1.0),
        ("unet", "time_embedding.linear_1", 1.0),
        ("unet", "down_blocks.1.attentions.0.proj_in", 0.2),
        ("unet", "down_blocks.0.downsamplers.0.conv", 0.2),
        ("unet", "mid_block.attentions.0.proj_in", 3.0),
        ("unet", "mid_block.resnets.1.conv1", 3.0),
        ("unet", "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q", 2.0),
        ("unet", "up_blocks.0.resnets.2.conv1", 4.0),
        ("unet", "up_blocks.1.attentions.0.proj_in", 7.0),
        ("unet", "up_blocks.2.attentions.0.proj_in", 1.0),
    ],
)
def test_module_has_the_scale_of_its_part(component: str, path: str, scale: float):
    assert scale_at(SCALE, component, path) == scale


def test_one_number_counts_for_all():
    assert scale_at(0.3, "unet", "conv_in") == 0.3


UNET = UnetShape(down=2, up=2, layers=1)
OF_SD = ("unet", "text_encoder")


@pytest.mark.parametrize(
    ("scale", "path", "message", "hint"),
    [
        ({"unett": 1}, ("unett",), "No LoRA of this pipeline changes a 'unett'.",
         "Did you mean 'unet'?"),
        ({"down": 1}, ("down",), "No LoRA of this pipeline changes a 'down'.",
         "Put it below 'unet'."),
        ({"unet": {"dwon": 1}}, ("unet", "dwon"), "A UNet has no part 'dwon'.",
         "Did you mean 'down'?"),
        ({"unet": {"down": {"block_7": 1}}}, ("unet", "down", "block_7"),
         "There is no 'block_7' in 'down' of this UNet.", "It has block_0 to block_1."),
        ({"unet": {"up": {"1": 1}}}, ("unet", "up", "1"), "There is no '1' in 'up' of this UNet.",
         "It has block_0 to block_1."),
        ({"unet": {"up": {"block_0": [1, 2, 3]}}}, ("unet", "up", "block_0"),
         "1 or 2 numbers, one for each layer, must stand here, not 3.", ""),
        ({"unet": {"mid": [1, 2]}}, ("unet", "mid"), "One number must stand here, not 2.", ""),
        ({"unet": {"mid": "high"}}, ("unet", "mid"), "A number is needed, not 'high'.", ""),
        ({"text_encoder": {"x": 1}}, ("text_encoder",), 'A number is needed, not {"x": 1}.', ""),
        ({"unet": {"down": {"block_0": [True]}}}, ("unet", "down", "block_0", 0),
         "A number is needed, not true.", ""),
    ],
)  # fmt: skip
def test_mistake_is_found(scale: Any, path: tuple[Any, ...], message: str, hint: str):
    assert list(mistakes_in(scale, OF_SD, UNET)) == [Wrong(path, message, hint)]


@pytest.mark.parametrize("unet", [UNET, None])
def test_valid_scale_has_no_mistake(unet: UnetShape | None):
    good = {"unet": {"down": 0.2, "mid": 1, "up": {"block_0": [0, 0.5], "block_1": [1]}}}
    for scale in (0.5, {}, {"text_encoder": 0}, good):
        assert list(mistakes_in(scale, OF_SD, unet)) == []
    # Blocks are only compared where they are known.
    seven = {"unet": {"down": {"block_7": 1}}}
    assert bool(list(mistakes_in(seven, OF_SD, unet))) == (unet is not None)
