"""Latents → a small JPEG, by a linear map: a fraction of a millisecond, no autoencoder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from PIL import Image

MAX_EDGE_PX = 256
JPEG_QUALITY = 80

# Least-squares fits of RGB to latents that ComfyUI publishes as `latent_rgb_factors`
# (comfy/latent_formats.py, classes SD15 and SDXL).
SD15_FACTORS = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
SDXL_FACTORS = (
    (0.3651, 0.4232, 0.4341),
    (-0.2533, -0.0042, 0.1068),
    (0.1076, 0.1111, -0.0362),
    (-0.3165, -0.2492, -0.2188),
)
SDXL_BIAS = (0.1084, -0.0175, -0.0011)


class LatentPreview:
    """The linear map of one model's latents to RGB of -1 to 1."""

    def __init__(
        self, factors: tuple[tuple[float, ...], ...], bias: tuple[float, ...] = (0.0, 0.0, 0.0)
    ) -> None:
        self._factors = torch.tensor(factors, dtype=torch.float32)
        self._bias = torch.tensor(bias, dtype=torch.float32)

    def knows(self, latents: torch.Tensor | None) -> bool:
        """Whether these are latents that the map is for: (n, channels, height, width), and not of
        another form, packed or of a film."""
        return latents is not None and latents.ndim == 4 and latents.shape[1] == len(self._factors)

    @torch.no_grad()
    def render(self, latents: torch.Tensor) -> tuple[bytes, int, int]:
        """JPEG, width and height in pixels of the first of the latents, which the map knows."""
        small = latents[0].detach().to("cpu", torch.float32).permute(1, 2, 0)
        rgb = ((small @ self._factors + self._bias + 1) * 127.5).clamp(0, 255)
        picture = Image.fromarray(rgb.to(torch.uint8).numpy())
        scale = max(1, min(8, MAX_EDGE_PX // max(picture.size)))
        picture = picture.resize(
            (picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC
        )
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue(), picture.width, picture.height


def find_preview(folder: Path, pipeline_class: str) -> LatentPreview | None:
    """The map for this model: the one stored beside it, else that of its family, else None."""
    stored = folder / "preview.json"
    if stored.is_file():
        fit = json.loads(stored.read_text())
        return LatentPreview(
            tuple(map(tuple, fit["latent_rgb_factors"])), tuple(fit["latent_rgb_bias"])
        )
    if pipeline_class.startswith("StableDiffusionXL"):
        return LatentPreview(SDXL_FACTORS, SDXL_BIAS)
    if pipeline_class.startswith("StableDiffusion") and "3" not in pipeline_class:
        return LatentPreview(SD15_FACTORS)
    return None
