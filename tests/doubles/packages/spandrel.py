"""Stands in for spandrel, which needs torchvision: networks that double images or mend faces."""

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


class _Brighter(torch.nn.Module):
    """Adds the weight to each pixel."""

    def __init__(self, added: torch.Tensor) -> None:
        super().__init__()
        self.added = torch.nn.Parameter(added)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return picture + self.added


class ImageModelDescriptor:
    """Called with an image (1, 3, height, width) of 0..1; returns it larger, or mended."""

    def __init__(self, model: torch.nn.Module, scale: int, purpose: str) -> None:
        self.model = model
        self.scale = scale
        self.purpose = purpose

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        return self.model(picture)


class ModelLoader:
    """Detects a file's network by its tensors."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def load_from_file(self, path: str | Path) -> ImageModelDescriptor:
        tensors = load_file(path, device=self.device)
        if "added" in tensors:
            return ImageModelDescriptor(_Brighter(tensors["added"]), 1, "FaceSR")
        return ImageModelDescriptor(_Twice(tensors["weight"]), 2, "SR")
