"""Compares an autoencoder's tensors, named as its first authors did, with a configuration.

These names (CompVis') are the same for all of Stable Diffusion's families, whose configurations
differ in the scaling of latents alone: only the pipeline's own tells which is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CLASS = "AutoencoderKL"
PREFIXES = ("first_stage_model.", "vae.")
KERNEL = (3, 3)


def fits(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Returns True if the tensors are those of an autoencoder of this configuration."""
    if config.get("_class_name") != CLASS:
        return False
    prefix = next((p for p in PREFIXES if f"{p}encoder.conv_in.weight" in shapes), "")
    named = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    try:
        return all(named.get(name) == shape for name, shape in _expected(config))
    except (TypeError, ValueError, IndexError):
        # A value of another type; the component's load reports that.
        return False


def _expected(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """Yields tensors with their shapes; None for one that must not be there."""
    widths = list(config.get("block_out_channels", (64,)))
    latents = config.get("latent_channels", 4)
    yield "encoder.conv_in.weight", (widths[0], config.get("in_channels", 3), *KERNEL)
    yield "encoder.conv_out.weight", (2 * latents, widths[-1], *KERNEL)
    yield "decoder.conv_in.weight", (widths[-1], latents, *KERNEL)
    yield "decoder.conv_out.weight", (config.get("out_channels", 3), widths[0], *KERNEL)
    for key, name, width in (
        ("use_quant_conv", "quant_conv.bias", 2 * latents),
        ("use_post_quant_conv", "post_quant_conv.bias", latents),
        ("mid_block_add_attention", "encoder.mid.attn_1.q.bias", widths[-1]),
    ):
        yield name, (width,) if config.get(key, True) else None
    layers = config.get("layers_per_block", 1)
    for index, width in enumerate(widths):
        yield f"encoder.down.{index}.block.{layers - 1}.conv1.bias", (width,)
        yield f"encoder.down.{index}.block.{layers}.conv1.bias", None
    yield f"encoder.down.{len(widths)}.block.0.conv1.bias", None
