"""Settings of Stable Diffusion's components that the shapes of their tensors tell, in the key
layout of their first authors.

Each function returns the facts of its family with these settings, which for a published model are
the same; the facts alone where the file lacks the component. Raises LookupError where one of its
tensors is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from app.models.single_files import Shapes

Config = dict[str, Any]
UNET = "model.diffusion_model."
VAE = ("first_stage_model.", "")
CLIP = ("cond_stage_model.transformer.text_model.",
        "conditioner.embedders.0.transformer.text_model.")  # fmt: skip
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.",
             "conditioner.embedders.0.model.")  # fmt: skip
"""Prefixes of the components' tensors."""
GROUPS, HEAD_WIDTH = 32, 64
"""Groups of each normalisation, and channels of each head of attention, in all published models."""
TOKENS_OF_OPEN_CLIP = "token_embedding.weight"
POOLED_WIDTH = 1280
"""Width of the pooled text of SDXL, as published."""
LAYERS_OF_H = 24
"""Layers of OpenCLIP's H model, the last of which is not used."""


INPUT_BLOCK = re.compile(re.escape(f"{UNET}input_blocks.") + r"(\d+)\.")


class _Level(NamedTuple):
    """One resolution of a U-Net's encoder."""

    channels: int
    layers: int
    depth: int
    """Transformer blocks of each of its layers; 0 without attention."""


def unet_config(shapes: Shapes, facts: Config) -> Config:
    """Returns the configuration of the U-Net."""
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        return facts
    config = encoder_config(shapes, facts)
    down = config["down_block_types"]
    up = [each.replace("Down", "Up") for each in reversed(down)]
    return {**config, "out_channels": shapes[f"{UNET}out.2.weight"][0], "up_block_types": up}


def encoder_config(shapes: Shapes, facts: Config) -> Config:
    """Returns the facts with what the tensors of a U-Net's encoder tell."""
    levels = _levels(shapes)
    channels = [level.channels for level in levels]
    attends = f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    config = {
        **facts,
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": _same(level.layers for level in levels),
        "down_block_types": [
            "CrossAttnDownBlock2D" if level.depth else "DownBlock2D" for level in levels
        ],
        "cross_attention_dim": shapes[attends][1],
        "norm_num_groups": _groups(channels),
    }
    if len(shapes[f"{UNET}middle_block.1.proj_in.weight"]) == 2:
        config["use_linear_projection"] = True
    depth = _depths(levels, _depth(shapes, f"{UNET}middle_block.1"))
    if depth != 1 or "transformer_layers_per_block" in facts:
        config["transformer_layers_per_block"] = depth
    if channels != facts["block_out_channels"]:
        config["attention_head_dim"] = _heads(channels, facts["attention_head_dim"])
    if (embedded := shapes.get(f"{UNET}label_emb.0.0.weight")) is not None:
        config["projection_class_embeddings_input_dim"] = embedded[1]
        config["addition_time_embed_dim"] = _time_width(shapes, embedded[1], facts)
    return config


def _depths(levels: list[_Level], middle: int) -> int | list[int]:
    """Returns the transformer blocks of each layer: one number where all are alike."""
    alike = {level.depth for level in levels if level.depth} | {middle}
    if len(alike) == 1:
        return middle
    # The middle has as many as the last level.
    return [*(level.depth or 1 for level in levels[:-1]), levels[-1].depth or middle]


def _levels(shapes: Shapes) -> list[_Level]:
    """Returns the resolutions of the encoder, each of which ends with a downsampling layer."""
    found: list[list[tuple[int, int]]] = [[]]
    numbers = {match[1] for name in shapes if (match := INPUT_BLOCK.match(name))}
    for number in sorted(map(int, numbers))[1:]:
        name = f"{UNET}input_blocks.{number}"
        if f"{name}.0.op.weight" in shapes:
            found.append([])
            continue
        width = shapes[f"{name}.0.out_layers.3.weight"][0]
        found[-1].append((width, _depth(shapes, f"{name}.1")))
    return [
        _Level(_same(width for width, _ in level), len(level), _same(depth for _, depth in level))
        for level in found
    ]


def _depth(shapes: Shapes, name: str) -> int:
    """Returns the number of transformer blocks in this layer; 0 for none."""
    return _count(shapes, f"{name}.transformer_blocks.")


def _count(shapes: Shapes, prefix: str) -> int:
    """Returns the number of layers that are numbered after this prefix."""
    return len(
        {name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)}
    )


def _same(values: Iterable[int]) -> int:
    """Returns the one value. Raises LookupError where they differ."""
    found = set(values)
    if len(found) != 1:
        raise LookupError("the same number of layers and channels in each level")
    return found.pop()


def _groups(channels: list[int]) -> int:
    """Returns the groups of the normalisation, which have to divide all channels."""
    return math.gcd(GROUPS, *channels)


def _heads(channels: list[int], published: int | list[int]) -> int | list[int]:
    """Returns the numbers of heads, which no shape tells: the published one, or of its width."""
    if isinstance(published, int):
        return math.gcd(published, *channels)
    return [max(1, width // HEAD_WIDTH) for width in channels]


def _time_width(shapes: Shapes, embedded: int, facts: Config) -> int:
    """Returns the channels of each number that SDXL's U-Net is told about sizes and crops."""
    published = int(facts["addition_time_embed_dim"])
    prefix = _prefix(shapes, OPEN_CLIP, TOKENS_OF_OPEN_CLIP)
    if prefix is None:
        return published
    # The base model is told six numbers, the refiner five.
    projected = int(facts["projection_class_embeddings_input_dim"])
    numbers = (projected - POOLED_WIDTH) // published
    return (embedded - shapes[f"{prefix}text_projection"][1]) // numbers


def _prefix(shapes: Shapes, prefixes: Iterable[str], name: str) -> str | None:
    """Returns the prefix with which the file has the tensor of this name; None without it."""
    return next((each for each in prefixes if f"{each}{name}" in shapes), None)


def vae_config(shapes: Shapes, facts: Config) -> Config:
    """Returns the configuration of the autoencoder."""
    prefix = _prefix(shapes, VAE, "decoder.conv_in.weight")
    if prefix is None:
        return facts
    down = f"{prefix}encoder.down."
    levels = _count(shapes, down)
    channels = [shapes[f"{down}{level}.block.0.conv1.weight"][0] for level in range(levels)]
    return {
        **facts,
        "in_channels": shapes[f"{prefix}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{prefix}decoder.conv_out.weight"][0],
        "latent_channels": shapes[f"{prefix}decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": _same(_count(shapes, f"{down}{n}.block.") for n in range(levels)),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": _groups(channels),
    }


def clip_config(shapes: Shapes, facts: Config) -> Config:
    """Returns the configuration of CLIP's text encoder."""
    prefix = _prefix(shapes, CLIP, "embeddings.token_embedding.weight")
    if prefix is None:
        return facts
    return _text(
        facts,
        shapes[f"{prefix}embeddings.token_embedding.weight"],
        shapes[f"{prefix}embeddings.position_embedding.weight"],
        shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"],
        _count(shapes, f"{prefix}encoder.layers."),
    )


def open_clip_config(shapes: Shapes, facts: Config) -> Config:
    """Returns the configuration of OpenCLIP's text encoder."""
    prefix = _prefix(shapes, OPEN_CLIP, TOKENS_OF_OPEN_CLIP)
    if prefix is None:
        return facts
    layers = _count(shapes, f"{prefix}transformer.resblocks.")
    with_projection = facts["architectures"] == ["CLIPTextModelWithProjection"]
    config = _text(
        facts,
        shapes[f"{prefix}token_embedding.weight"],
        shapes[f"{prefix}positional_embedding"],
        shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"],
        layers - 1 if layers == LAYERS_OF_H and not with_projection else layers,
    )
    if with_projection:
        config["projection_dim"] = shapes[f"{prefix}text_projection"][1]
    return config


def _text(
    facts: Config,
    tokens: tuple[int, ...],
    positions: tuple[int, ...],
    inner: tuple[int, ...],
    layers: int,
) -> Config:
    if tokens[0] != facts["vocab_size"]:
        raise LookupError(f"a vocabulary of {facts['vocab_size']} tokens")
    width = tokens[1]
    return {
        **facts,
        "hidden_size": width,
        "intermediate_size": inner[0],
        "max_position_embeddings": positions[0],
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "num_hidden_layers": layers,
    }
