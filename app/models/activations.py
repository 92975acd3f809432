"""Estimates the bytes that a denoiser and an autoencoder need beside their weights.

Computed from the models' configurations alone, before anything is loaded. Counted are the tensors
alive at the peak of one forward pass, which follow from the shapes of the networks;
`benchmarks/peak.py` counts them in real networks and compares. Attention is assumed never to
materialise its matrix, like torch's on a GPU and on a CPU. Memory that libraries use inside a call
(cuDNN's workspaces, oneDNN's reordered copies) is not included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.dialect.fingerprint import DTYPE_BYTES
from app.dialect.plan_settings import DType

RESNET_COPIES = 3
"""A resnet's input, its norm, and the norm's activation: alive together, in its input's width."""
TRANSFORMER_WIDTHS = 21
"""Peak of a U-Net's transformer block: GEGLU of 8 widths in, 4 of its gate, 4 of the product; the
block's input, norm and residuals."""
DIT_WIDTHS = 17
"""The same of a diffusion transformer's block, per token; 12 to 17.4 were counted."""
VIDEO_FIRST_WIDTHS, VIDEO_FRAME_WIDTHS = 9, 5.6
"""Widths of a causal video decoder at full resolution, in units of the width before its last
upsampling: for a single frame, and for each further one of a chunk. Counted, not derived: its
caches grow with its depth."""
VIDEO_TILE_PX = 256
"""The side of a video autoencoder's tile; a constant of its code, not of its configuration."""
TEXT_TOKENS = 512


@dataclass(frozen=True)
class Size:
    """The size of one call's output."""

    width_px: int
    height_px: int
    frames: int = 1
    batch: int = 1
    guided: bool = False
    """True if the denoiser runs with and without the prompt in one batch."""


@dataclass(frozen=True)
class DecodeBytes:
    """Needs of decoding one image or video, at once or in tiles, and their number."""

    whole: int
    tile: int
    decoded: int
    """Size of the decoded output of one."""
    batch: int = 1

    def needed(self, *, slicing: bool, tiling: bool) -> int:
        """Returns the bytes for all of them: at once, or with `slicing` one after the other."""
        one = self.tile if tiling else self.whole
        return one + (self.batch - 1) * (self.decoded if slicing else one)


def compression(config: Mapping[str, Any]) -> int | None:
    """Returns the pixels of a side per latent; None for an unknown autoencoder."""
    levels = config.get("block_out_channels") or config.get("dim_mult")
    return 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else None


def decode_bytes(config: Mapping[str, Any], size: Size, dtype: DType) -> DecodeBytes | None:
    """Returns the bytes that this autoencoder needs to decode; None where unknown.

    The peak is at full resolution, in the first resnet after the last upsampling, whose input still
    has the width of the level below.
    """
    each = DTYPE_BYTES[dtype]
    blocks, multiples = config.get("block_out_channels"), config.get("dim_mult")
    decoded = 3 * size.width_px * size.height_px * size.frames * each
    if blocks and "latent_channels" in config:
        per_pixel = RESNET_COPIES * blocks[min(1, len(blocks) - 1)] * each
        tile_px = _side(config.get("sample_size")) or VIDEO_TILE_PX
    elif multiples and "base_dim" in config and not config.get("is_residual"):
        chunk = 2 ** sum(config.get("temperal_downsample", ())) if size.frames > 1 else 1
        widths = VIDEO_FIRST_WIDTHS + VIDEO_FRAME_WIDTHS * (chunk - 1)
        per_pixel = int(widths * config["base_dim"] * multiples[min(1, len(multiples) - 1)] * each)
        # Each frame is appended to the video so far, in a copy.
        decoded *= 2
        tile_px = VIDEO_TILE_PX
    else:
        return None
    pixels = size.width_px * size.height_px
    tile_pixels = min(tile_px, size.width_px) * min(tile_px, size.height_px)
    whole = per_pixel * pixels + (decoded if size.frames > 1 else 0)
    # All tiles are kept until the last, and then joined.
    tile = per_pixel * tile_pixels + 2 * decoded if tile_pixels < pixels else whole
    return DecodeBytes(whole, min(whole, tile), decoded, size.batch)


def denoise_bytes(
    config: Mapping[str, Any], autoencoder: Mapping[str, Any], size: Size, dtype: DType
) -> int | None:
    """Returns the bytes that one step of this denoiser needs; None where unknown."""
    pixels = compression(autoencoder)
    if pixels is None:
        return None
    batch = size.batch * (2 if size.guided else 1)
    positions = (size.width_px // pixels) * (size.height_px // pixels)
    if "down_block_types" in config and config.get("block_out_channels"):
        return int(_unet_widths(config) * positions * batch * DTYPE_BYTES[dtype])
    width = _transformer_width(config)
    if width is None:
        return None
    stride = 2 ** sum(autoencoder.get("temperal_downsample", ()))
    latents = autoencoder.get("latent_channels") or autoencoder.get("z_dim") or 1
    tokens = positions // _patch_area(config, latents) * ((size.frames - 1) // stride + 1)
    width *= DIT_WIDTHS * DTYPE_BYTES[dtype]
    return int(width * (tokens + TEXT_TOKENS) * batch)


def _unet_widths(config: Mapping[str, Any]) -> float:
    """Returns the channels alive at the peak of a U-Net, per position of the latents.

    The peak is on the way up, at one of the levels: skip connections of this level and those above,
    the input from below, and the working block.
    """
    blocks: list[int] = config["block_out_channels"]
    layers = config.get("layers_per_block", 2)
    worst, above = 0.0, 0.0
    for level, width in enumerate(blocks):
        depth = layers[level] if isinstance(layers, list) else layers
        below = blocks[min(level + 1, len(blocks) - 1)]
        kept = (depth + 1) * width
        attends = "Attn" in config["down_block_types"][level]
        resnet = RESNET_COPIES * (width + below)
        work = max(resnet, TRANSFORMER_WIDTHS * width) if attends else resnet
        worst = max(worst, (work + kept + below) / 4**level + above)
        above += kept / 4**level
    return worst


def _transformer_width(config: Mapping[str, Any]) -> int | None:
    heads, head = config.get("num_attention_heads"), config.get("attention_head_dim")
    if isinstance(heads, int) and isinstance(head, int):
        return heads * head
    width = config.get("dim")
    return width if isinstance(width, int) else None


def _patch_area(config: Mapping[str, Any], latent_channels: int) -> int:
    """Returns the latent positions per token: packed into channels, or cut into patches."""
    packed = int(config.get("in_channels") or 0) // latent_channels
    if packed > 1:
        return packed
    patch = config.get("patch_size") or config.get("all_patch_size") or 1
    side = patch[-1] if isinstance(patch, list) else patch
    return int(side) ** 2


def _side(sample_size: Any) -> int | None:
    side = max(sample_size, default=None) if isinstance(sample_size, list) else sample_size
    return side if isinstance(side, int) else None
