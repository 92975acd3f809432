"""Resizes images: crop, stretch, or to a size that models were trained on."""

from __future__ import annotations

import math
from typing import Annotated

from PIL import Image, ImageOps
from pydantic import Field, model_validator

from app.tasks.media import fitting
from app.tasks.task import Arguments, ImageInput, Task

Side = Annotated[int, Field(ge=1, le=8192)]
"""In pixels."""
BUCKETS = ["1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16", "21:9", "9:21"]


class ImageArguments(Arguments):
    image: ImageInput


class ToSize(ImageArguments):
    height: Side = 768
    width: Side = 768


class ToResolution(ImageArguments):
    resolution: Side = 1024
    """Short side, in pixels."""


class ToBucket(ImageArguments):
    resolution: Side = 1024
    """Side of a square with as many pixels as each bucket has."""
    ratios: Annotated[list[str], Field(min_length=1)] = BUCKETS
    """Width to height, `16:9`."""
    alignment: Annotated[int, Field(ge=1, le=512)] = 64

    @model_validator(mode="after")
    def _ratios_are_ratios(self) -> ToBucket:
        for ratio in self.ratios:
            sides = ratio.split(":")
            if len(sides) != 2 or not all(s.isascii() and s.isdigit() and int(s) for s in sides):
                raise ValueError(f"'{ratio}' is not a ratio like 16:9")
        return self


def crop_square(arguments: ImageArguments) -> Image.Image:
    """Returns the centre square, as large as the short side."""
    width, height = arguments.image.size
    side = min(width, height)
    left, up = (width - side) // 2, (height - side) // 2
    return arguments.image.crop((left, up, left + side, up + side))


def resize_center_crop(arguments: ToSize) -> Image.Image:
    """Returns the centre square, stretched to the requested size."""
    square = crop_square(ImageArguments(image=arguments.image))
    return square.resize((arguments.width, arguments.height))


def resize_rescale(arguments: ToSize) -> Image.Image:
    """Returns the whole image, stretched to the requested size."""
    return arguments.image.convert("RGB").resize((arguments.width, arguments.height))


def resize_resample(arguments: ToResolution) -> Image.Image:
    """Returns the whole image with its short side near `resolution`, both multiples of 64 px."""
    image = arguments.image.convert("RGB")
    scale = arguments.resolution / min(image.size)
    width, height = (max(1, round(side * scale / 64)) * 64 for side in image.size)
    return image.resize(fitting(width, height), Image.Resampling.LANCZOS)


def resize_bucket(arguments: ToBucket) -> Image.Image:
    """Returns the image scaled and centre-cropped to the bucket of the nearest aspect ratio.

    Aspect ratios are compared as logarithms, so that wide and high count the same.
    """
    image = arguments.image.convert("RGB")
    own = math.log(image.width / image.height)
    shapes = [int(wide) / int(high) for wide, high in (r.split(":") for r in arguments.ratios)]
    shape = min(shapes, key=lambda each: abs(math.log(each) - own))
    unit = arguments.alignment
    exact = (arguments.resolution * math.sqrt(shape), arguments.resolution / math.sqrt(shape))
    width, height = (max(1, round(side / unit)) * unit for side in exact)
    return ImageOps.fit(image, fitting(width, height), Image.Resampling.LANCZOS)


CROP_SQUARE = Task(ImageArguments, crop_square, gives="image")
CENTER_CROP = Task(ToSize, resize_center_crop, gives="image")
RESCALE = Task(ToSize, resize_rescale, gives="image")
RESAMPLE = Task(ToResolution, resize_resample, gives="image")
BUCKET = Task(ToBucket, resize_bucket, gives="image")
