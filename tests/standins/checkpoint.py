"""A whole Stable Diffusion 1 stand-in in one file, named as its first authors named the tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
VAE = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm",
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
}  # fmt: skip


def build_checkpoint(model: Path, file: Path) -> None:
    """Write the denoiser, the autoencoder and the text encoder of the model in this folder."""
    tensors = {
        **_unet(model / "unet"),
        **_vae(model / "vae"),
        **{
            f"cond_stage_model.transformer.{_with_tower(name)}": tensor
            for name, tensor in load_file(model / "text_encoder" / "model.safetensors").items()
        },
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def _with_tower(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def _unet(folder: Path) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "config.json").read_text())
    per_block = config["layers_per_block"] + 1
    # An upsampler comes after what else its block has: with attention, two others.
    after = [2 if kind.startswith("CrossAttn") else 1 for kind in config["up_block_types"]]
    found = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        stem, _, kind = name.rpartition(".")
        found[
            f"model.diffusion_model.{ENDS.get(stem) or _inner(stem, per_block, after)}.{kind}"
        ] = tensor
    return found


def _inner(name: str, per_block: int, after: list[int]) -> str:
    part, *rest = name.split(".")
    if part == "mid_block":
        kind, index, *rest = rest
        is_attention = kind == "attentions"
        at = 1 if is_attention else 2 * int(index)
        return f"middle_block.{at}.{_layer(rest, is_attention)}"
    block, kind, index, *rest = rest
    down, first = part == "down_blocks", int(block) * per_block
    side = "input_blocks" if down else "output_blocks"
    match kind:
        case "downsamplers":
            return f"input_blocks.{first + per_block}.0.op"
        case "upsamplers":
            return f"output_blocks.{first + per_block - 1}.{after[int(block)]}.conv"
        case _:
            is_attention = kind == "attentions"
            at = first + int(index) + (1 if down else 0)
            return f"{side}.{at}.{int(is_attention)}.{_layer(rest, is_attention)}"


def _layer(rest: list[str], is_attention: bool) -> str:
    return ".".join(rest if is_attention else [RESNET[rest[0]], *rest[1:]])


def _vae(folder: Path) -> dict[str, torch.Tensor]:
    last = len(json.loads((folder / "config.json").read_text())["block_out_channels"]) - 1
    found = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        told = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        told = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", told)
        up = lambda at: f"up.{last - int(at[1])}.{'block' if at[2] == 'resnets' else 'upsample'}"  # noqa: E731
        told = re.sub(r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)", up, told)
        for ours, theirs in VAE.items():
            told = told.replace(f"{ours}.", f"{theirs}.")
        is_matrix = tensor.ndim == 2
        found[f"first_stage_model.{told}"] = tensor[:, :, None, None] if is_matrix else tensor
    return found
