"""Inpainting: the picture's own shape, and its own pixels outside the mask.

diffusers' inpainting pipelines draw in the model's own size, whatever the picture's shape, and
return a picture in which each pixel has passed the autoencoder.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from app.models.asked_size import NO_SIDE_PX, redrawn_size
from app.worker.steps.notices import is_of_other_shape
from app.worker.steps.step_output import CallOutput

PIXELS_PER_LATENT = 8
"""Of a pipeline that does not say."""
MASKED_FROM = 128
"""diffusers redraws mask levels from 0.5 on."""
NAMES = (("image", "mask_image"), ("image", "mask"), ("control_image", "control_mask"))
"""The arguments of an inpainted picture and its mask."""
REDRAW_BLACK = {"RePaintPipeline"}
"""Pipelines that keep the white part."""


class Pair(NamedTuple):
    """A picture that is inpainted, and its mask."""

    picture: Image.Image
    mask: Image.Image


def in_own_shape(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call, with the width and height of an inpainted picture's shape
    where the document has none."""
    found, sides = _inpainted(arguments), {"width", "height"}
    if not found or sides & arguments.keys():
        return dict(arguments)
    if not sides <= inspect.signature(type(pipeline).__call__).parameters.keys():
        return dict(arguments)
    scale = getattr(pipeline, "vae_scale_factor", PIXELS_PER_LATENT)
    size = found[0].picture.size
    width, height = redrawn_size(size, _own_side_px(pipeline, scale) ** 2, 2 * scale)
    return {**arguments, "width": width, "height": height}


def inpainting_notices(arguments: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence where an inpainted picture is drawn in another size than its own, which
    the document did not ask for, and for a mask that is not as one may think."""
    found = _inpainted(arguments)
    if found and "width" in arguments and "width" not in named:
        drawn, own = (arguments["width"], arguments["height"]), found[0].picture.size
        if drawn != own:
            yield (
                f"The picture of {_sides(own)} pixels is redrawn in a size that fits the model:"
                f" {_sides(drawn)}."
            )
    for picture, mask in _pairs(arguments):
        if not any(mask.convert("L").histogram()[MASKED_FROM:]):
            yield "No pixel of the mask is white: nothing is redrawn."
        if is_of_other_shape(mask.size, picture.size):
            yield (
                f"The mask of {_sides(mask.size)} pixels is stretched over the picture of"
                f" {_sides(picture.size)}."
            )


def with_own_pixels(
    made: Sequence[Any],
    arguments: Mapping[str, Any],
    named: Mapping[str, Any],
    seam_px: int,
    pipeline_class: str = "",
) -> list[Any]:
    """Returns a call's results with the inpainted picture's own pixels outside its mask.

    `named` are the arguments that the document has: without a width and a height among them, the
    results get the picture's size. Results that are no images stay as they are, and those of
    several pictures that are not one for each.
    """
    found = _inpainted(arguments)
    if not found or pipeline_class in REDRAW_BLACK:
        return list(made)

    def kept(drawn: Any, pair: Pair) -> Any:
        if not isinstance(drawn, Image.Image):
            return drawn
        picture, mask = pair
        size = drawn.size if {"width", "height"} & named.keys() else picture.size
        below = _resized(picture, size)
        below.paste(_resized(drawn, size), mask=blend(_resized(mask, size), seam_px))
        return below

    def all_kept(drawn: Sequence[Any]) -> list[Any]:
        pairs = found * len(drawn) if len(found) == 1 else found
        if len(pairs) != len(drawn):
            return list(drawn)
        return [kept(each, pair) for each, pair in zip(drawn, pairs, strict=True)]

    if any(isinstance(each, CallOutput) for each in made):
        return [
            CallOutput({**each, "images": all_kept(each["images"])})
            if isinstance(each, CallOutput) and "images" in each
            else each
            for each in made
        ]
    return all_kept(made)


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


def _pairs(arguments: Mapping[str, Any]) -> list[Pair]:
    """Returns the pictures that a call inpaints, each with its mask; empty where it has none."""
    for name, mask_name in NAMES:
        pictures, masks = _listed(arguments.get(name)), _listed(arguments.get(mask_name))
        if not pictures or not masks:
            continue
        if len(masks) == 1:
            masks *= len(pictures)
        if len(masks) == len(pictures):
            return [Pair(*pair) for pair in zip(pictures, masks, strict=True)]
    return []


def _inpainted(arguments: Mapping[str, Any]) -> list[Pair]:
    """Returns the pairs of a call whose result has no pixels of the picture yet: a pipeline that
    crops to the mask pastes its result back itself."""
    return [] if arguments.get("padding_mask_crop") is not None else _pairs(arguments)


def _listed(value: Any) -> list[Image.Image]:
    """Returns an image, or a list of them, as a list; empty for all else."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    return listed if all(isinstance(each, Image.Image) for each in listed) else []


def _sides(size: tuple[int, int]) -> str:
    return "{} x {}".format(*size)


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
