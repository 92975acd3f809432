"""The output size of a step's call: width, height, frames, and batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.dialect.installed.signatures import call_signature
from app.dialect.plan import PipelineStep
from app.dialect.plan_values import FileValue, ListValue, LiteralValue, ResultValue
from app.media import images
from app.media.images import WrongMediaError
from app.models.activations import Size, compression

NO_SIDE_PX = 1024
"""diffusers' size where neither the call nor the denoiser's configuration has one."""
MOST_TIMES_OWN_AREA = 2.25
"""Models repeat things in a picture of a larger area than this many times their own."""
GUIDED_IN_TWO_CALLS = ("Flux", "QwenImage", "Wan")
"""Pipelines that call their denoiser twice for guidance; the others double its batch."""


def asked_size(
    step: PipelineStep,
    class_name: str,
    denoisers: Sequence[Mapping[str, Any]],
    autoencoder: Mapping[str, Any],
    sizes: Mapping[str, Size],
) -> Size:
    """Returns the step's output size with the configurations of its denoisers and autoencoder.

    `sizes` has the output sizes of the steps before it.
    """
    signature = call_signature(class_name)
    defaults = {p.name: p.default for p in signature.parameters} if signature else {}

    def number(name: str) -> float | None:
        value = step.arguments.get(name)
        given = value.value if isinstance(value, LiteralValue) else None
        return _number(defaults.get(name) if given is None else given)

    width, height = number("width"), number("height")
    if (width is None or height is None) and "mask_image" in step.arguments:
        own = _drawn(denoisers, autoencoder)
        width, height = redrawn_size(next(_pictures(step, sizes), own), math.prod(own), 1)
    elif width is None or height is None:
        like = next(_pictures(step, sizes), None) if "height" not in defaults else None
        drawn = like or _drawn(denoisers, autoencoder)
        width, height = width or drawn[0], height or drawn[1]
    prompt = step.arguments.get("prompt")
    prompts = prompt.value if isinstance(prompt, LiteralValue) else None
    count = len(prompts) if isinstance(prompts, list) else 1
    each = number("num_images_per_prompt") or number("num_videos_per_prompt") or 1
    guidance = number("guidance_scale") or 0
    return Size(
        width_px=int(width),
        height_px=int(height),
        frames=int(number("num_frames") or 1),
        batch=max(1, count * int(each)),
        guided=guidance > 1 and not class_name.startswith(GUIDED_IN_TWO_CALLS),
    )


def redrawn_size(picture: tuple[int, int], own_area_px: int, multiple: int) -> tuple[int, int]:
    """Returns width and height, in pixels, in which a picture of this size is inpainted.

    They have its aspect ratio and are multiples of `multiple`; their area lies between the model's
    own and MOST_TIMES_OWN_AREA times that.
    """
    width, height = picture
    area_px = min(max(width * height, own_area_px), MOST_TIMES_OWN_AREA * own_area_px)
    scale = math.sqrt(area_px / (width * height))
    wide, high = (max(1, round(side * scale / multiple)) * multiple for side in picture)
    return wide, high


def _drawn(
    denoisers: Sequence[Mapping[str, Any]], autoencoder: Mapping[str, Any]
) -> tuple[int, int]:
    """Returns width and height in pixels of a call without a size."""
    latents = next((config["sample_size"] for config in denoisers if "sample_size" in config), None)
    pixels = compression(autoencoder)
    if latents is None or pixels is None:
        return NO_SIDE_PX, NO_SIDE_PX
    sides = latents if isinstance(latents, list) and len(latents) == 2 else [latents] * 2
    if not all(isinstance(side, int) for side in sides):
        return NO_SIDE_PX, NO_SIDE_PX
    height, width = sides
    return width * pixels, height * pixels


def _pictures(step: PipelineStep, sizes: Mapping[str, Size]) -> Iterator[tuple[int, int]]:
    """Yields the sizes of the step's input images, which it uses where no other size is given."""
    value = step.arguments.get("image")
    for item in value.items if isinstance(value, ListValue) else (value,):
        if isinstance(item, FileValue) and item.kind == "image":
            # Reads the header alone. The call reports a file that has gone meanwhile.
            with contextlib.suppress(WrongMediaError):
                yield images.size_of(Path(item.path))
        elif isinstance(item, ResultValue) and item.step in sizes:
            before = sizes[item.step]
            yield before.width_px, before.height_px


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
