"""Masks of OpenAI's form, transparent where the image shall change, as white on black."""

from __future__ import annotations

import io
from pathlib import Path

from app.errors import InvalidInputs
from app.media.images import WrongMediaError, alpha_of


def mask_of_alpha(file: Path, max_pixels: int) -> bytes | None:
    """Returns a PNG, white where the image is transparent; None for an opaque image.

    Raises InvalidInputs.
    """
    try:
        alpha = alpha_of(file, max_pixels)
    except WrongMediaError as error:
        raise InvalidInputs(str(error)) from None
    if alpha.getextrema() == (255, 255):
        return None
    content = io.BytesIO()
    # A mask is binary.
    alpha.point(lambda level: 0 if level >= 128 else 255).save(content, "PNG", compress_level=1)
    return content.getvalue()
