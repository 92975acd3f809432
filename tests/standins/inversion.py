"""Textual inversions of random vectors, in the formats that people have."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.standins.parts import TEXT_WIDTH

OF_TWO = ("clip_l", "clip_g")


def build_inversion(
    file: Path, *names: str, vectors: int = 1, width: int = TEXT_WIDTH, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Writes so many vectors under each of these names; returns them."""
    noise = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(vectors, width, generator=noise) for name in names}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return tensors
