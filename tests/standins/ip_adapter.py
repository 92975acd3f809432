"""An IP-adapter of random weights for a stand-in's denoiser, with its image encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.standins.parts import EYE_PX, seeded

IMAGE_WIDTH, TOKENS = 16, 4
"""Channels of an encoded picture, and how many words' worth the denoiser gets of it."""
SD3_WIDTH, RANK = 64, 2
"""Channels in an adapter for Stable Diffusion 3, in heads of 64; the rank of a LoRA."""


def build_ip_adapter(
    model: Path, folder: Path, weight_name: str, seed: int = 0, *, face: bool = False
) -> None:
    """One for the denoiser of this model, laid out as the published ones are; one for faces has a
    LoRA too."""
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
        for index, name in enumerate(unet.attn_processors if face else ()):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            layers = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v}
            for kind, layer in {**layers, "out": attention.to_out[0]}.items():
                lora = f"ip_adapter.{index}.to_{kind}_lora"
                weights[f"{lora}.down.weight"] = torch.randn(RANK, layer.in_features) / 2
                weights[f"{lora}.up.weight"] = torch.randn(layer.out_features, RANK) / 2
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


def build_sd3_ip_adapter(
    model: Path, folder: Path, encoder_folder: Path, weight_name: str, seed: int = 0
) -> None:
    """One for this Stable Diffusion 3, laid out as InstantX': the image encoder is a model of its
    own."""
    transformer = SD3Transformer2DModel.from_pretrained(model / "transformer")
    with seeded(seed):
        projection = IPAdapterTimeImageProjection(
            embed_dim=IMAGE_WIDTH,
            output_dim=transformer.inner_dim,
            hidden_dim=SD3_WIDTH,
            heads=1,
            num_queries=TOKENS,
            timestep_in_dim=8,
        )
        weights = {f"image_proj.{name}": each for name, each in projection.state_dict().items()}
        for index in range(len(transformer.attn_processors)):
            processor = SD3IPAdapterJointAttnProcessor2_0(
                hidden_size=transformer.inner_dim,
                ip_hidden_states_dim=transformer.inner_dim,
                head_dim=transformer.config.attention_head_dim,
                timesteps_emb_dim=SD3_WIDTH,
            )
            # Untrained, its influence is lost when pixels are rounded.
            nn.init.normal_(processor.to_v_ip.weight)
            for name, each in processor.state_dict().items():
                weights[f"ip_adapter.{index}.{name}"] = each
        encoder = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=IMAGE_WIDTH,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=EYE_PX,
                patch_size=8,
            )
        )
    encoder.save_pretrained(encoder_folder)
    size = {"height": EYE_PX, "width": EYE_PX}
    SiglipImageProcessorPil(size=size).save_pretrained(encoder_folder)
    folder.mkdir(parents=True)
    save_file({name: each.contiguous() for name, each in weights.items()}, folder / weight_name)


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
