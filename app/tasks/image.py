"""Image size, metadata and watermarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from PIL import Image, ImageColor, ImageDraw, ImageFont
from pydantic import BeforeValidator, Field, field_validator

from app.mistakes import shown
from app.tasks.resize import ImageArguments
from app.tasks.task import Task

AUTOMATIC_FONT_SHARE = 1 / 32
"""Default font height as a share of the image's short side."""
SMALLEST_FONT_PX = 12


Position = Literal["bottom-right", "bottom-left", "top-right", "top-left", "center"]
POSITIONS: tuple[Position, ...] = get_args(Position)
DEFAULT_POSITION: Position = "bottom-right"


def _known_position(named: Any) -> Any:
    return DEFAULT_POSITION if _is_unknown_position(named) else named


def _is_unknown_position(named: Any) -> bool:
    return isinstance(named, str) and named not in POSITIONS


class Watermark(ImageArguments):
    text: Annotated[str, Field(min_length=1, max_length=200)] = "AI Generated"
    position: Annotated[Position, BeforeValidator(_known_position)] = DEFAULT_POSITION
    """The default for an unknown one, as in the software that defines the dialect."""
    opacity: Annotated[int, Field(ge=0, le=255)] = 128
    font_size: Annotated[int, Field(ge=0, le=1000)] = 0
    """In pixels; 0 takes a 32nd of the short side."""
    margin: Annotated[int, Field(ge=0, le=1000)] = 10
    """Pixels between the text and the image's edges."""
    color: str | list[int] = "white"
    """A name, `#rrggbb`, or RGB of 0 to 255."""

    @field_validator("color")
    @classmethod
    def _is_a_color(cls, color: str | list[int]) -> str | list[int]:
        if isinstance(color, str):
            ImageColor.getrgb(color)  # raises ValueError with a sentence
        elif len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise ValueError(f"{color} is not red, green and blue of 0 to 255")
        return color


def get_image_size(arguments: ImageArguments) -> dict[str, int]:
    return {"width": arguments.image.width, "height": arguments.image.height}


def strip_exif(arguments: ImageArguments) -> Image.Image:
    """Returns the image without EXIF and other metadata."""
    bare = arguments.image.copy()
    bare.info = {}
    bare.getexif().clear()
    return bare


def add_watermark(arguments: Watermark) -> Image.Image:
    """Returns the image with text drawn over it; keeps an alpha channel."""
    image = arguments.image
    pixels = image.convert("RGBA")
    size = arguments.font_size or max(
        SMALLEST_FONT_PX, round(min(image.size) * AUTOMATIC_FONT_SHARE)
    )
    font = ImageFont.load_default(size)
    layer = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(layer)
    box = draw.textbbox((0, 0), arguments.text, font=font)
    corner = _corner(arguments, image.size, (box[2] - box[0], box[3] - box[1]))
    draw.text(
        (corner[0] - box[0], corner[1] - box[1]),
        arguments.text,
        font=font,
        fill=(*_rgb(arguments.color), arguments.opacity),
    )
    marked = Image.alpha_composite(pixels, layer)
    return marked if "A" in image.getbands() else marked.convert("RGB")


def _corner(
    arguments: Watermark, whole: tuple[int, int], text: tuple[float, float]
) -> tuple[float, float]:
    if arguments.position == "center":
        return (whole[0] - text[0]) // 2, (whole[1] - text[1]) // 2
    far_x, far_y = (whole[axis] - text[axis] - arguments.margin for axis in (0, 1))
    vertical, _, horizontal = arguments.position.partition("-")
    return (
        arguments.margin if horizontal == "left" else far_x,
        arguments.margin if vertical == "top" else far_y,
    )


def _warnings(values: Mapping[str, Any]) -> Mapping[str, str]:
    named = values.get("position")
    if not _is_unknown_position(named):
        return {}
    known = ", ".join(POSITIONS)
    return {"position": f"{shown(named)} is none of {known}; {DEFAULT_POSITION} is used."}


def _rgb(color: Any) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(color)[:3] if isinstance(color, str) else color
    return red, green, blue


IMAGE_SIZE = Task(ImageArguments, get_image_size, gives="data", keys=("width", "height"))
STRIP_EXIF = Task(ImageArguments, strip_exif, gives="image")
WATERMARK = Task(Watermark, add_watermark, gives="image", warns=_warnings)
