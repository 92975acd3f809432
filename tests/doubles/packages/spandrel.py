"""Stands in for spandrel, which needs torchvision: a network that doubles images."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

REFUSALS: list[Exception] = []
"""Errors to raise, one for each call of a network."""


class _Twice(torch.nn.Module):
    """Turns each pixel into four of its colour times the weight."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        if REFUSALS:
            raise REFUSALS.pop()
        return torch.nn.functional.interpolate(picture, scale_factor=2) * self.weight


class ImageModelDescriptor:
    """Called with an image (1, 3, height, width) of 0..1; returns it larger."""

    def __init__(self, model: torch.nn.Module, scale: int) -> None:
        self.model = model
        self.scale = scale

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        return self.model(picture)


class ModelLoader:
    """Detects a file's network by its tensors."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def load_from_file(self, path: str | Path) -> ImageModelDescriptor:
        return ImageModelDescriptor(_Twice(load_file(path, device=self.device)["weight"]), 2)
