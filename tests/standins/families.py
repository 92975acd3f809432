"""Whole checkpoints of the families whose configurations `app/models/families/` holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from app.dialect.files import read_object
from app.models.family_configs import FACTS
from tests.standins.checkpoint import (
    Tensors,
    original_clip,
    original_open_clip,
    original_unet,
    original_vae,
)
from tests.standins.parts import seeded

Configs = dict[str, dict[str, Any]]
NARROW_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 1, "num_hidden_layers": 2,
    "projection_dim": 32,
}  # fmt: skip
# diffusers tells SDXL by the tenth layer of its second text encoder.
NARROW_TEXT_2 = NARROW_TEXT | {"hidden_size": 64, "num_hidden_layers": 10, "projection_dim": 40}
NARROW: dict[str, Configs] = {
    "sd15": {
        "unet": {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32},
        "text_encoder": NARROW_TEXT,
    },
    "sdxl": {
        "unet": {
            "block_out_channels": [32, 64, 64], "cross_attention_dim": 96,
            "attention_head_dim": [1, 1, 1], "transformer_layers_per_block": [1, 1, 2],
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 88,
        },
        "text_encoder": NARROW_TEXT,
        "text_encoder_2": NARROW_TEXT_2,
    },
    "sdxl-refiner": {
        "unet": {
            "block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 64,
            "attention_head_dim": [1, 1, 1, 1], "transformer_layers_per_block": 1,
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80,
        },
        "text_encoder_2": NARROW_TEXT_2,
    },
}  # fmt: skip
"""Changes of the facts that make small models of the same layout."""
NARROW_VAE = {"block_out_channels": [32, 32, 32, 64], "layers_per_block": 1}
CLIP_OF_SDXL = "conditioner.embedders.0.transformer."
OPEN_CLIP = {
    "sd21": "cond_stage_model.model.",
    "sdxl": "conditioner.embedders.1.model.",
    "sdxl-refiner": "conditioner.embedders.0.model.",
}


def configs_of(family: str, changes: Mapping[str, Any] = MappingProxyType({})) -> Configs:
    """Returns the configurations of the family's components that have weights, with changes."""
    files = sorted((FACTS / family).glob("*/config.json"))
    return {
        file.parent.name: {**read_object(file), **changes.get(file.parent.name, {})}
        for file in files
    }


def narrow_configs(family: str) -> Configs:
    """Returns the configurations of a small model of this family."""
    return configs_of(family, {**NARROW[family], "vae": NARROW_VAE})


def original_tensors(family: str, configs: Configs) -> Tensors:
    """Returns the tensors of a whole checkpoint, on the device that is the default one."""
    unet = UNet2DConditionModel.from_config(configs["unet"]).state_dict()
    vae = AutoencoderKL.from_config(configs["vae"]).state_dict()
    tensors = original_unet(unet, configs["unet"]) | original_vae(vae, configs["vae"])
    if family in ("sd15", "sdxl"):
        text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).state_dict()
        prefix = CLIP_OF_SDXL if family == "sdxl" else "cond_stage_model.transformer."
        tensors |= original_clip(text, prefix)
    if family == "sd21":
        # The last of its layers is not used, and not in its configuration.
        layers = configs["text_encoder"]["num_hidden_layers"] + 1
        config = CLIPTextConfig(**configs["text_encoder"] | {"num_hidden_layers": layers})
        tensors |= original_open_clip(CLIPTextModel(config).state_dict(), OPEN_CLIP[family])
    if "text_encoder_2" in configs:
        text = CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"])).state_dict()
        tensors |= original_open_clip(text, OPEN_CLIP[family])
    return tensors


def published_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a published checkpoint's tensors."""
    with torch.device("meta"):
        tensors = original_tensors(family, configs_of(family))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def build_narrow(family: str, file: Path, seed: int = 0) -> None:
    """Write a small checkpoint of this family."""
    with seeded(seed):
        tensors = original_tensors(family, narrow_configs(family))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
