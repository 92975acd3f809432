"""LoRAs of random weights for a stand-in's transformer."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from app.models.model_index import read_index
from tests.standins.parts import seeded


def build_lora(model: Path, file: Path, seed: int = 0) -> None:
    """Write a LoRA for the transformer of the stand-in in `model`, another one for each seed."""
    index = read_index(model, modular=True)
    transformer = getattr(diffusers, index.parts["transformer"].class_name).from_pretrained(
        model, subfolder="transformer"
    )
    with seeded(seed):
        transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.5)
    getattr(diffusers, index.class_name).save_lora_weights(
        file.parent,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        weight_name=file.name,
    )
