"""Cuts the object of an image out, by a network of the BiRefNet family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from PIL import Image
from pydantic import Field

from app.errors import StepError
from app.tasks.resize import ImageArguments
from app.tasks.task import EINOPS, KORNIA, TIMM, TORCHVISION, Loaded, Loads, Task

RMBG, BIREFNET = "briaai/RMBG-2.0", "ZhengPeng7/BiRefNet"
SIDE = 1024
"""Width and height in pixels that the networks see."""
MEANS, SPREADS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by colour."""


class RemoveBackground(ImageArguments):
    model_name: Annotated[str, Field(min_length=1)] = RMBG


def remove_background(arguments: RemoveBackground, loaded: Loaded) -> Image.Image:
    """Returns the image (RGBA) in its own size, its background transparent.

    Raises StepError if the model does not give such a mask.
    """
    import numpy as np
    import torch

    image = arguments.image.convert("RGB")
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = (np.asarray(small) / 255 - MEANS) / SPREADS
    found = loaded.components["model"].tool(
        torch.from_numpy(pixels).float().permute(2, 0, 1)[None].to(loaded.device)
    )
    # The predictions of its stages: the last one is the finest.
    logits = found[-1] if isinstance(found, list | tuple) and found else found
    if not isinstance(logits, torch.Tensor) or logits.ndim != 4 or logits.shape[:2] != (1, 1):
        raise StepError(
            f"'{arguments.model_name}' is no model for this task: it gives no mask.",
            hint=f"Use '{BIREFNET}' or '{RMBG}'.",
        )
    mask = torch.nn.functional.interpolate(
        logits.float().sigmoid(), (image.height, image.width), mode="bilinear", align_corners=False
    )
    alpha = (mask[0, 0] * 255).round().clamp(0, 255).byte().cpu().numpy()
    # What drops the alpha later on gets a white background, as pictures from files do.
    colours = np.where(alpha[..., None] == 0, np.uint8(255), np.asarray(image))
    return Image.fromarray(np.dstack([colours, alpha]))


def _loads(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    class_name = "transformers.AutoModelForImageSegmentation"
    return (Loads("model", class_name, values["model_name"], code=True),)


def _licence(values: Mapping[str, Any]) -> Mapping[str, str]:
    if values.get("model_name", RMBG) != RMBG:
        return {}
    return {
        "model_name": f"The licence of '{RMBG}' allows non-commercial use alone, and has to be"
        f" accepted on the hub. '{BIREFNET}' has the MIT licence."
    }


REMOVAL = Task(
    RemoveBackground,
    remove_background,
    gives="image",
    loads=_loads,
    packages=(TORCHVISION, TIMM, KORNIA, EINOPS),
    warns=_licence,
)
