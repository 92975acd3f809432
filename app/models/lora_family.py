"""Infers from a LoRA's tensors which family of models it was made for."""

from __future__ import annotations

import re
from collections.abc import Iterable

FAMILIES = {
    "FLUX": r"single_transformer_blocks|single_blocks|double_blocks",
    "Wan": r"blocks[._]\d+[._](self|cross)_attn",
    "Stable Diffusion 3": r"joint_blocks|(?<!single_)transformer_blocks.\d+.attn.add_q_proj",
    "Stable Diffusion XL": r"(down_blocks|input_blocks)[._]\d+[._]?.*transformer_blocks[._][2-9]"
    r"|lora_te[12]_|text_encoder_2|lora_unet_(input|output|middle)_block",
    "Stable Diffusion 1.5 or 2": r"(down_blocks|up_blocks|mid_block)[._].*attentions",
}
"""Names of modules that only one family has, by family; the first that is found counts.

From the module names of diffusers' models and of kohya-ss/sd-scripts, which writes `_` for `.`.
"""
OF_TRANSFORMERS = {"FLUX", "Wan", "Stable Diffusion 3"}
"""Families without a UNet."""


def family_of(tensors: Iterable[str]) -> str:
    """Returns the family of models that has modules with adapters of these names; "" if unknown."""
    names = list(tensors)
    found = (
        family
        for family, pattern in FAMILIES.items()
        if any(re.search(pattern, name) for name in names)
    )
    return next(found, "")
