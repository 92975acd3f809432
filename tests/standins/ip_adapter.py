"""An IP-adapter of random weights for a stand-in's denoiser, with its image encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
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
        encoder = _encoder()
    encoder.save_pretrained(folder / "image_encoder")
    save_file(weights, folder / weight_name)


def build_flux_ip_adapter(
    model: Path, folder: Path, encoder_folder: Path, weight_name: str, seed: int = 0
) -> None:
    """One for this Flux, laid out as XLabs' are: the image encoder is a model of its own."""
    transformer = FluxTransformer2DModel.from_pretrained(model / "transformer")
    text_width, width = transformer.config.joint_attention_dim, transformer.inner_dim
    with seeded(seed):
        weights = {
            "ip_adapter_proj_model.proj.weight": torch.randn(TOKENS * text_width, IMAGE_WIDTH),
            "ip_adapter_proj_model.proj.bias": torch.randn(TOKENS * text_width),
            "ip_adapter_proj_model.norm.weight": torch.ones(text_width),
            "ip_adapter_proj_model.norm.bias": torch.zeros(text_width),
        }
        for index in range(transformer.config.num_layers):
            for kind in ("k", "v"):
                name = f"double_blocks.{index}.processor.ip_adapter_double_stream_{kind}_proj"
                weights[f"{name}.weight"] = torch.randn(width, text_width)
                weights[f"{name}.bias"] = torch.randn(width)
        encoder = _encoder()
    encoder.save_pretrained(encoder_folder)
    folder.mkdir(parents=True)
    save_file(weights, folder / weight_name)


def _encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
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
