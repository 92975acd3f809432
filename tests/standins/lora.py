"""A LoRA of random weights for a stand-in's transformer."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from tests.standins.parts import seeded


def build_flux_lora(model: Path, file: Path, seed: int) -> None:
    """Write a LoRA for the FLUX stand-in in `model`, another one for each seed."""
    transformer = FluxTransformer2DModel.from_pretrained(model, subfolder="transformer")
    with seeded(seed):
        transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.5)
    FluxPipeline.save_lora_weights(
        file.parent,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        weight_name=file.name,
    )
