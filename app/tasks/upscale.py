"""Upscales images by networks of spandrel, or by diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import Field, model_validator

from app.tasks.media import fitting
from app.tasks.resize import ImageArguments
from app.tasks.task import SPANDREL, TORCHVISION, Becomes, Loaded, Loads, Task

if TYPE_CHECKING:
    from torch import Tensor

UPSCALERS: dict[str, tuple[str, str]] = {
    "x4": ("diffusers.StableDiffusionUpscalePipeline", "stabilityai/stable-diffusion-x4-upscaler"),
    "x2": (
        "diffusers.StableDiffusionLatentUpscalePipeline",
        "stabilityai/sd-x2-latent-upscaler",
    ),
}
"""Pipeline and model by scale factor."""


class Upscale(ImageArguments):
    model_name: Annotated[str, Field(min_length=1)]
    """A file, or a repository of the hub with the file `filename`."""
    filename: Annotated[str, Field(min_length=1)] | None = None
    tile_size: Annotated[int, Field(ge=64, le=4096)] = 512
    """In pixels; larger images are processed in tiles."""
    tile_overlap: Annotated[int, Field(ge=0, le=1024)] = 32
    """In pixels; tiles are blended there."""

    @model_validator(mode="after")
    def _tiles_differ(self) -> Upscale:
        if self.tile_overlap * 2 > self.tile_size:
            raise ValueError("'tile_overlap' can be half of 'tile_size' at most")
        return self


class DiffusionUpscale(ImageArguments):
    prompt: str = ""
    negative_prompt: str | None = None
    mode: Literal["x4", "x2"] = "x4"
    model_name: Annotated[str, Field(min_length=1)] | None = None
    """None: the model for the mode."""
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 9.0
    noise_level: Annotated[int, Field(ge=0, le=999)] = 20
    """For x4: noise added to the image; more allows more changes."""


def upscale(arguments: Upscale, loaded: Loaded) -> Image.Image:
    """Returns the image upscaled by the network's factor."""
    import numpy as np
    import torch

    network = loaded.components["model"].tool
    pixels = np.asarray(arguments.image.convert("RGB"), np.float32) / 255
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(loaded.device)
    grown = _in_tiles(image, network, arguments, loaded)
    bytes_ = (grown[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(bytes_.cpu().numpy())


def _in_tiles(image: Tensor, network: Any, arguments: Upscale, loaded: Loaded) -> Tensor:
    """Returns the network's output for the image (1, 3, height, width), computed in tiles."""
    import torch

    height, width = image.shape[-2:]
    fitting(width * network.scale, height * network.scale)
    tiles = [
        (y, x)
        for y in _starts(height, arguments.tile_size, arguments.tile_overlap)
        for x in _starts(width, arguments.tile_size, arguments.tile_overlap)
    ]
    total: Any = None
    for number, (y, x) in enumerate(tiles, start=1):
        size = arguments.tile_size
        grown = network(image[..., y : y + size, x : x + size]).float()
        scale = grown.shape[-1] // min(size, width - x)
        weight = _fading(grown.shape[-2:], arguments.tile_overlap * scale, grown)
        if total is None:
            shape = (1, 3, height * scale, width * scale)
            total, weights = (
                torch.zeros(shape, device=grown.device),
                torch.zeros(shape[-2:]).to(grown),
            )
        rows = slice(y * scale, y * scale + grown.shape[-2])
        columns = slice(x * scale, x * scale + grown.shape[-1])
        total[..., rows, columns] += grown * weight
        weights[rows, columns] += weight
        loaded.progress(number, len(tiles))
    return total / weights  # type: ignore[no-any-return]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """Returns the starts of tiles; the last tile ends with the image."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def _fading(shape: Sequence[int], overlap: int, like: Tensor) -> Tensor:
    """Returns a tile's blending weights (height, width), lower towards its edges."""
    import torch

    height, width = (
        torch.minimum(torch.arange(1, side + 1), torch.arange(side, 0, -1)).clamp(max=overlap + 1)
        for side in shape
    )
    return (height[:, None] * width[None, :]).to(like)


def _spandrel(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    # Without `filename`, the model itself is a file.
    return (
        Loads("model", "spandrel.ModelLoader", values["model_name"], file=values["filename"] or ""),
    )


def _becomes(values: Mapping[str, Any]) -> Becomes:
    pipeline_class, model = UPSCALERS.get(values["mode"], UPSCALERS["x4"])
    names = ["prompt", "negative_prompt", "image", "num_inference_steps", "guidance_scale"]
    if values["mode"] == "x4":
        names.append("noise_level")
    return Becomes(pipeline_class, values["model_name"] or model, tuple(names))


DIFFUSION = Task(DiffusionUpscale, None, gives="image", becomes=_becomes)
SPANDREL_UPSCALE = Task(
    Upscale, upscale, gives="image", loads=_spandrel, packages=(SPANDREL, TORCHVISION)
)
