"""bitsandbytes on a machine without a GPU.

It supports CPUs, and transformers allows that; diffusers insists on a GPU. These are diffusers'
quantisers without that check, in the table where it finds them. Needed with diffusers 0.42.1.
Needed with bitsandbytes 0.50.2.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer


class _FourBits(BnB4BitDiffusersQuantizer):  # type: ignore[misc]
    def validate_environment(self, *_arguments: Any, **_named: Any) -> None:
        """Requires nothing."""

    def update_device_map(self, device_map: Any) -> Any:
        """Returns the map unchanged: weights stay where they are loaded."""
        return device_map


class _EightBits(BnB8BitDiffusersQuantizer):  # type: ignore[misc]
    validate_environment = _FourBits.validate_environment
    update_device_map = _FourBits.update_device_map


def allow_cpu() -> None:
    """Lets diffusers quantise with bitsandbytes on a CPU."""
    AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] = _FourBits
    AUTO_QUANTIZER_MAPPING["bitsandbytes_8bit"] = _EightBits


def keep_plain_layout(module: torch.nn.Module) -> None:
    """Keeps 4-bit weights in the layout in which they are loaded.

    On CPUs with AVX512-BF16 bitsandbytes changes the layout at their first call, and back whenever
    a state dict is read, as loading a LoRA does. It does not change the scales back: the next call
    uses wrong ones wherever a row has more than one block of 64.
    """
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            setattr(layer, "support_avx512bf16_for_cpu", False)  # noqa: B010  (of its subclass)
