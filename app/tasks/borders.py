"""Adds a black border and its mask to an image, for outpainting."""

from __future__ import annotations

from typing import Annotated

from PIL import Image
from pydantic import Field

from app.tasks.media import fitting
from app.tasks.task import Arguments, ImageInput, Task

SIDE_MULTIPLE = 32
Share = Annotated[float, Field(ge=0, le=16)]
"""In multiples of the image's width or height."""
Overlap = Annotated[float, Field(ge=0, lt=0.5)]
"""Share of the image, at each side, that the mask covers too."""


class Zoomed(Arguments):
    image: ImageInput
    zoom_all: Share = 1.0
    """Scale of the whole width and height; 1 and less add nothing."""
    zoom_left: Share = 0.0
    zoom_right: Share = 0.0
    zoom_up: Share = 0.0
    zoom_down: Share = 0.0
    overlap: Overlap = 0.0


class Sized(Arguments):
    image: ImageInput
    width: Annotated[int, Field(ge=SIDE_MULTIPLE, le=8192)]
    height: Annotated[int, Field(ge=SIDE_MULTIPLE, le=8192)]
    overlap: Overlap = 0.0


def add_border_and_mask(arguments: Zoomed) -> dict[str, Image.Image]:
    """Returns the image with black added at each side, its size rounded to multiples of 32 px."""
    width, height = arguments.image.size
    around = max(0.0, arguments.zoom_all - 1) / 2
    left, right = (
        int(width * zoom) + int(width * around)
        for zoom in (arguments.zoom_left, arguments.zoom_right)
    )
    up, down = (
        int(height * zoom) + int(height * around)
        for zoom in (arguments.zoom_up, arguments.zoom_down)
    )
    size = fitting(_whole(left + width + right), _whole(up + height + down))
    return _bordered(arguments.image, (left, up), size, arguments.overlap)


def add_border_and_mask_with_size(arguments: Sized) -> dict[str, Image.Image]:
    """Returns the image scaled to fit the requested size, centred on black."""
    size = width, height = (_whole(arguments.width), _whole(arguments.height))
    own_width, own_height = arguments.image.size
    if own_width * height > own_height * width:
        fitted = (width, max(1, width * own_height // own_width))
    else:
        fitted = (max(1, height * own_width // own_height), height)
    image = arguments.image.resize(fitted, Image.Resampling.LANCZOS)
    corner = ((width - fitted[0]) // 2, (height - fitted[1]) // 2)
    return _bordered(image, corner, size, arguments.overlap)


def _bordered(
    image: Image.Image, corner: tuple[int, int], size: tuple[int, int], overlap: float
) -> dict[str, Image.Image]:
    """Returns the image pasted at this corner, and its mask: white is to be painted."""
    whole = Image.new("RGB", size)
    whole.paste(image, corner)
    inset_x, inset_y = int(image.width * overlap), int(image.height * overlap)
    left, up = corner
    right, down = left + image.width, up + image.height
    mask = Image.new("L", size, 255)
    mask.paste(0, (left + inset_x, up + inset_y, right - inset_x, down - inset_y))
    return {"bordered_image": whole, "mask": mask}


def _whole(side: int) -> int:
    return max(1, round(side / SIDE_MULTIPLE)) * SIDE_MULTIPLE


KEYS = ("bordered_image", "mask")
BORDER = Task(Zoomed, add_border_and_mask, gives="image", keys=KEYS)
BORDER_TO_SIZE = Task(Sized, add_border_and_mask_with_size, gives="image", keys=KEYS)
