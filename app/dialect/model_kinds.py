"""Kinds of models, and the names of their folders in ComfyUI and A1111."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal[
    "checkpoints", "loras", "vae", "controlnet", "embeddings", "upscale_models", "diffusers",
    "diffusion_models", "text_encoders",
]  # fmt: skip
"""What a folder below a models folder holds; also the name of that folder."""
KINDS: tuple[Kind, ...] = get_args(Kind)
NAMES: dict[str, Kind] = {
    **{kind: kind for kind in KINDS},
    # ComfyUI's other names.
    "unet": "diffusion_models", "clip": "text_encoders", "t2i_adapter": "controlnet",
    # A1111's, and those of its successors.
    "stable-diffusion": "checkpoints", "lora": "loras", "lycoris": "loras",
    "esrgan": "upscale_models", "realesrgan": "upscale_models", "bsrgan": "upscale_models",
    "swinir": "upscale_models", "dat": "upscale_models", "hat": "upscale_models",
    "scunet": "upscale_models", "text_encoder": "text_encoders",
}  # fmt: skip
"""Kinds by the names of their folders, in small letters."""
