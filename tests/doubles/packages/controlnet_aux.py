"""Stands in for controlnet_aux, which needs torchvision and timm: detectors that find brightness.

They are loaded, moved and called as the real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


class _Detector:
    def __init__(self, network: torch.nn.Module) -> None:
        self.netNetwork = network

    @classmethod
    def from_pretrained(cls, folder: str, filename: str, **more: str) -> _Detector:
        for name in more.values():
            torch.load(Path(folder) / name)
        network = torch.nn.Linear(3, 1)
        network.load_state_dict(torch.load(Path(folder) / filename))
        return cls(network)

    def to(self, device: Any) -> _Detector:
        self.netNetwork.to(device)
        return self

    def __call__(
        self,
        picture: Image.Image,
        detect_resolution: int = 512,
        image_resolution: int = 512,
        output_type: str = "pil",
        **options: Any,
    ) -> Image.Image:
        assert output_type == "pil"
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)
        found = self.netNetwork(pixels)[..., 0].clamp(0, 1)
        grey = Image.fromarray((found * 255).byte().numpy())
        grey = grey.resize((image_resolution, image_resolution))
        return grey.point(lambda value: 255 * (value > 127)) if options.get("scribble") else grey


class HEDdetector(_Detector):
    """Called as by `hed` and `scribble`."""


class LineartDetector(_Detector):
    """A detector with two files."""


class AnylineDetector(_Detector):
    """A detector whose file lies in a folder of its repository."""
