"""An IP-adapter of random weights for a stand-in's denoiser, with its image encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.standins.parts import seeded

IMAGE_WIDTH, TOKENS = 16, 4
"""Channels of an encoded picture, and how many words' worth the denoiser gets of it."""


def build_ip_adapter(model: Path, folder: Path, weight_name: str, seed: int = 0) -> None:
    """One for the denoiser of this model, laid out as the published ones are."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    text_width = unet.config.cross_attention_dim
    with seeded(seed):
        weights = {
            "image_proj.proj.weight": torch.randn(TOKENS * text_width, IMAGE_WIDTH),
            "image_proj.proj.bias": torch.randn(TOKENS * text_width),
            "image_proj.norm.weight": torch.ones(text_width),
            "image_proj.norm.bias": torch.zeros(text_width),
        }
        for index, name in enumerate(n for n in unet.attn_processors if "attn2" in n):
            keys = unet.get_submodule(name.removesuffix(".processor")).to_k.weight
            for kind in ("k", "v"):
                name_in_file = f"ip_adapter.{2 * index + 1}.to_{kind}_ip.weight"
                weights[name_in_file] = torch.randn(keys.shape)
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                projection_dim=IMAGE_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            )
        )
    encoder.save_pretrained(folder / "image_encoder")
    save_file(weights, folder / weight_name)
