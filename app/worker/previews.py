"""Renders latents as a small JPEG by a linear map: a fraction of a millisecond, no autoencoder.

`preview_maps` learns the map of families for which none is published.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from app.errors import first_line

log = logging.getLogger(__name__)

MAX_EDGE_PX = 256
JPEG_QUALITY = 80
MAX_STORED_BYTES = 1_000_000
"""Limit for `preview.json`."""

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
    """A linear map from one model's latents to RGB of -1 to 1."""

    def __init__(
        self,
        factors: Sequence[Sequence[float]] | torch.Tensor,
        bias: Sequence[float] | torch.Tensor = (0.0, 0.0, 0.0),
    ) -> None:
        self._factors = torch.as_tensor(factors, dtype=torch.float32)
        self._bias = torch.as_tensor(bias, dtype=torch.float32)

    def knows(self, latents: object, picture_px: tuple[int, int] | None = None) -> bool:
        """Returns whether the map fits these latents, of an image of this width and height."""
        return grid_of(latents, len(self._factors), picture_px) is not None

    @torch.no_grad()
    def render(
        self, latents: torch.Tensor, picture_px: tuple[int, int] | None = None
    ) -> tuple[bytes, int, int]:
        """Returns JPEG, width and height in pixels of the first of the latents."""
        found = grid_of(latents, len(self._factors), picture_px)
        assert found is not None
        grid = found.detach().to("cpu", torch.float32)
        rgb = ((grid @ self._factors + self._bias + 1) * 127.5).clamp(0, 255)
        image = Image.fromarray(rgb.to(torch.uint8).numpy())
        scale = max(1, min(8, MAX_EDGE_PX // max(image.size)))
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue(), image.width, image.height


def grid_of(
    latents: object,
    channels: int,
    picture_px: tuple[int, int] | None = None,
    *,
    first_frame: bool = False,
) -> torch.Tensor | None:
    """Returns the first of the latents as (rows, columns, channels), a view on their device.

    Called after every denoising step, so nothing is copied from the device: a copy would wait for
    all pending computation.

    Accepts images (n, channels, rows, columns); videos (n, channels, frames, …) or (n, frames,
    channels, …), of which it takes the middle or first frame; and packed images (n, rows x columns,
    channels) whose token count fits `picture_px` (square by default). Returns None otherwise.
    """
    if not isinstance(latents, torch.Tensor):
        return None
    shape = latents.shape
    one = latents[0] if len(shape) in (3, 4, 5) and shape[0] else None
    if one is None:
        return None
    if len(shape) == 5:
        axis = 1 if shape[1] == channels else 0
        frames = shape[axis + 1]
        one = one.select(axis, 0 if first_frame else frames // 2)
    if one.ndim == 3 and one.shape[0] == channels:
        one = one.permute(1, 2, 0)
    elif one.ndim == 2 and one.shape[1] == channels:
        rows = _rows(one.shape[0], picture_px or (1, 1))
        if rows is None:
            return None
        one = one.reshape(rows, -1, channels)
    else:
        return None
    return one


def _rows(tokens: int, picture_px: tuple[int, int]) -> int | None:
    """Returns the row count of a packed image; None if the tokens do not fit its aspect ratio."""
    width, height = picture_px
    rows = round(math.sqrt(tokens * height / width))
    fits = rows > 0 and tokens % rows == 0 and math.isclose(tokens / rows / rows, width / height,
                                                            rel_tol=0.1)  # fmt: skip
    return rows if fits else None


_Colour = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class _StoredMap(BaseModel):
    """`preview.json` in a model's folder; untrusted."""

    latent_rgb_factors: list[_Colour] = Field(min_length=1, max_length=1024)
    latent_rgb_bias: _Colour = (0.0, 0.0, 0.0)


def find_preview(folder: Path, pipeline_class: str) -> LatentPreview | None:
    """Returns the map stored with this model, else that of its family, else None.

    An invalid stored map is only logged.
    """
    stored = folder / "preview.json"
    try:
        if stored.is_file() and stored.stat().st_size <= MAX_STORED_BYTES:
            fit = _StoredMap.model_validate_json(stored.read_bytes())
            return LatentPreview(fit.latent_rgb_factors, fit.latent_rgb_bias)
    except (OSError, ValidationError) as error:
        log.warning("'%s' is not a valid preview map: %s", stored, first_line(error))
    if pipeline_class.startswith("StableDiffusionXL"):
        return LatentPreview(SDXL_FACTORS, SDXL_BIAS)
    if pipeline_class.startswith("StableDiffusion") and "3" not in pipeline_class:
        return LatentPreview(SD15_FACTORS)
    return None
