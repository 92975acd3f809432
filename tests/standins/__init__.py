"""Stand-ins for the models the shipped workflows name: real pipelines, tiny, of random weights.

Each has the classes, the settings and the folder layout of the model it stands for, in sizes that
load and draw in a moment, so a workflow runs on one as it runs on the model. What they draw is
noise; that they draw it with every component the model has is the point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.standins.flux import build_flux
from tests.standins.qwen import build_qwen_image, build_zimage
from tests.standins.stable_diffusion import (
    build_sd,
    build_sd3,
    build_sdxl,
    build_sdxl_refiner,
)
from tests.standins.wan import build_wan

STANDINS: dict[str, Callable[[Path], None]] = {
    "sd15": build_sd,
    "sdxl": build_sdxl,
    "sdxl-turbo": partial(build_sdxl, turbo=True),
    "sd35-medium": build_sd3,
    "flux-dev": partial(build_flux, guidance_embeds=True),
    "flux-schnell": partial(build_flux, guidance_embeds=False),
    "z-image-turbo": build_zimage,
    "qwen-image": build_qwen_image,
    "wan21-t2v": build_wan,
}
"""What builds the stand-in of each shipped workflow's model, by the stem of the workflow's file."""

__all__ = [
    "STANDINS",
    "build_flux",
    "build_qwen_image",
    "build_sd",
    "build_sd3",
    "build_sdxl",
    "build_sdxl_refiner",
    "build_wan",
    "build_zimage",
]
