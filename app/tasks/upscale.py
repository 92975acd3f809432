"""Larger pictures: drawn anew by diffusers' upscaling pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from app.tasks.resize import OnePicture
from app.tasks.task import Becomes, Task

UPSCALERS: dict[str, tuple[str, str]] = {
    "x4": ("diffusers.StableDiffusionUpscalePipeline", "stabilityai/stable-diffusion-x4-upscaler"),
    "x2": (
        "diffusers.StableDiffusionLatentUpscalePipeline",
        "stabilityai/sd-x2-latent-upscaler",
    ),
}
"""Pipeline and model by how many times as wide and as high the picture becomes."""


class DiffusionUpscale(OnePicture):
    prompt: str = ""
    negative_prompt: str | None = None
    mode: Literal["x4", "x2"] = "x4"
    model_name: Annotated[str, Field(min_length=1)] | None = None
    """None: the one that is made for the mode."""
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 9.0
    noise_level: Annotated[int, Field(ge=0, le=999)] = 20
    """Of x4: how much of the picture may be drawn otherwise."""


def _becomes(values: Mapping[str, Any]) -> Becomes:
    pipeline_class, model = UPSCALERS.get(values["mode"], UPSCALERS["x4"])
    names = ["prompt", "negative_prompt", "image", "num_inference_steps", "guidance_scale"]
    if values["mode"] == "x4":
        names.append("noise_level")
    return Becomes(pipeline_class, values["model_name"] or model, tuple(names))


DIFFUSION = Task(DiffusionUpscale, None, gives="image", becomes=_becomes)
