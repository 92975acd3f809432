"""Inpainting: the picture's own shape, and its own pixels outside the mask.

diffusers' inpainting pipelines draw in the model's own size, whatever the picture's shape, and
return a picture in which each pixel has passed the autoencoder.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from app.models.asked_size import NO_SIDE_PX, redrawn_size
from app.worker.steps.step_output import CallOutput

PIXELS_PER_LATENT = 8
"""Of a pipeline that does not say."""
MASKED_FROM = 128
"""diffusers redraws mask levels from 0.5 on."""


def in_own_shape(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call, with the width and height of an inpainted picture's shape
    where the document has none."""
    picture, _ = _inpainted(arguments) or (None, None)
    known = inspect.signature(type(pipeline).__call__).parameters
    sides = {"width", "height"}
    if picture is None or sides & arguments.keys() or not sides <= known.keys():
        return dict(arguments)
    scale = getattr(pipeline, "vae_scale_factor", PIXELS_PER_LATENT)
    width, height = redrawn_size(picture.size, _own_side_px(pipeline, scale) ** 2, 2 * scale)
    return {**arguments, "width": width, "height": height}


def shape_notice(arguments: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """Returns a sentence where an inpainted picture is drawn in another size than its own, which
    the document did not ask for; else ""."""
    found = _inpainted(arguments)
    if found is None or "width" not in arguments or "width" in named:
        return ""
    drawn = arguments["width"], arguments["height"]
    if drawn == found[0].size:
        return ""
    own, other = (f"{width} x {height}" for width, height in (found[0].size, drawn))
    return f"The picture of {own} pixels is redrawn in a size that fits the model: {other}."


def with_own_pixels(
    made: Sequence[Any], arguments: Mapping[str, Any], named: Mapping[str, Any], seam_px: int
) -> list[Any]:
    """Returns a call's results with the inpainted picture's own pixels outside its mask.

    `named` are the arguments that the document has: without a width and a height among them, the
    results get the picture's size. Results that are no images stay as they are.
    """
    found = _inpainted(arguments)
    if found is None:
        return list(made)
    picture, mask = found

    def kept(drawn: Any) -> Any:
        if not isinstance(drawn, Image.Image):
            return drawn
        size = drawn.size if {"width", "height"} & named.keys() else picture.size
        below = _resized(picture, size)
        below.paste(_resized(drawn, size), mask=blend(_resized(mask, size), seam_px))
        return below

    def of_call(output: Any) -> Any:
        if isinstance(output, CallOutput) and "images" in output:
            return CallOutput({**output, "images": [kept(each) for each in output["images"]]})
        return kept(output)

    return [of_call(each) for each in made]


def blend(mask: Image.Image, seam_px: int) -> Image.Image:
    """Returns the share of the redrawn picture in each pixel, 0 to 255.

    It is 0 outside the mask, and rises to 255 within `seam_px` from its edge.
    """
    import cv2
    import numpy as np

    inside = np.asarray(mask.convert("L")) >= MASKED_FROM
    if seam_px == 0 or inside.all():
        return Image.fromarray(inside.astype(np.uint8) * 255)
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return Image.fromarray((255 * np.minimum(distance / (seam_px + 1), 1)).astype(np.uint8))


def _inpainted(arguments: Mapping[str, Any]) -> tuple[Image.Image, Image.Image] | None:
    """Returns the picture that a call inpaints and its mask; None where it has no such pair.

    A pipeline that crops to the mask pastes its result back itself.
    """
    picture, mask = arguments.get("image"), arguments.get("mask_image")
    if not isinstance(picture, Image.Image) or not isinstance(mask, Image.Image):
        return None
    return None if arguments.get("padding_mask_crop") is not None else (picture, mask)


def _own_side_px(pipeline: Any, scale: int) -> int:
    """Returns the side, in pixels, of the square that the model draws by itself."""
    latents = getattr(pipeline, "default_sample_size", None)
    unet = getattr(pipeline, "unet", None)
    if latents is None and unet is not None:
        latents = unet.config.sample_size
    return latents * scale if isinstance(latents, int) else NO_SIDE_PX


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    resized = picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
    return resized.convert("RGB")
