"""Stable Diffusion's models in one file, named as their first authors named the tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
VAE = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm",
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
}  # fmt: skip


OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks", "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip

Tensors = dict[str, torch.Tensor]


def build_checkpoint(model: Path, file: Path) -> None:
    """Write the denoiser, the autoencoder and the text encoder of the model in this folder."""
    unet, vae = (json.loads((model / name / "config.json").read_text()) for name in ("unet", "vae"))
    tensors = {
        **original_unet(load_file(model / "unet" / WEIGHTS), unet),
        **original_vae(load_file(model / "vae" / WEIGHTS), vae),
        **original_clip(load_file(model / "text_encoder" / "model.safetensors")),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def original_clip(tensors: Tensors, prefix: str = "cond_stage_model.transformer.") -> Tensors:
    """Returns the tensors of CLIP's text encoder."""
    return {f"{prefix}{_with_tower(name)}": tensor for name, tensor in tensors.items()}


def build_original_vae(model: Path, file: Path, prefix: str = "first_stage_model.") -> None:
    """Write only the autoencoder, with this prefix before its names."""
    config = json.loads((model / "vae" / "config.json").read_text())
    named = original_vae(load_file(model / "vae" / WEIGHTS), config)
    tensors = {
        prefix + name.removeprefix("first_stage_model."): tensor.contiguous()
        for name, tensor in named.items()
    }
    save_file(tensors, file)


def _with_tower(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def original_open_clip(tensors: Tensors, prefix: str) -> Tensors:
    """Returns the tensors of OpenCLIP's text encoder, which has the projections of each layer's
    attention in one."""
    found: Tensors = {}
    bare = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    for name, tensor in bare.items():
        told = name
        for ours, theirs in OPEN_CLIP.items():
            told = told.replace(f"{ours}.", f"{theirs}.")
        if name == "text_projection.weight":
            found[f"{prefix}text_projection"] = tensor.T
        elif name == "embeddings.position_embedding.weight":
            found[f"{prefix}positional_embedding"] = tensor
        elif ".q_proj." in name:
            parts = [bare[name.replace(".q_proj.", f".{each}_proj.")] for each in "qkv"]
            kind = name.rpartition(".")[2]
            layer = told.partition(".self_attn.")[0]
            found[f"{prefix}{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[f"{prefix}{told}"] = tensor
    return found


def original_unet(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Returns the tensors of a denoiser of this configuration."""
    per_block = config["layers_per_block"] + 1
    # An upsampler comes after what else its block has: with attention, two others.
    after = [2 if kind.startswith("CrossAttn") else 1 for kind in config["up_block_types"]]
    found = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        found[
            f"model.diffusion_model.{ENDS.get(stem) or _inner(stem, per_block, after)}.{kind}"
        ] = tensor
    return found


def original_controlnet(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Returns the tensors of a ControlNet of this configuration, without a prefix."""
    per_block = config["layers_per_block"] + 1
    hints = 2 * len(config["conditioning_embedding_out_channels"]) - 2
    found = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        part, _, rest = stem.partition(".")
        match part:
            case "controlnet_down_blocks":
                told = f"zero_convs.{rest}.0"
            case "controlnet_mid_block":
                told = "middle_block_out.0"
            case "controlnet_cond_embedding":
                numbers = {"conv_in": 0, "conv_out": 2 * (hints + 1)}
                number = numbers.get(rest) if rest in numbers else 2 * int(rest.split(".")[1]) + 2
                told = f"input_hint_block.{number}"
            case _:
                told = ENDS.get(stem) or _inner(stem, per_block, [])
        found[f"{told}.{kind}"] = tensor
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


def original_vae(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Returns the tensors of an autoencoder of this configuration."""
    last = len(config["block_out_channels"]) - 1
    found = {}
    for name, tensor in tensors.items():
        told = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        told = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", told)
        up = lambda at: f"up.{last - int(at[1])}.{'block' if at[2] == 'resnets' else 'upsample'}"  # noqa: E731
        told = re.sub(r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)", up, told)
        for ours, theirs in VAE.items():
            told = told.replace(f"{ours}.", f"{theirs}.")
        is_matrix = tensor.ndim == 2
        found[f"first_stage_model.{told}"] = tensor[:, :, None, None] if is_matrix else tensor
    return found
