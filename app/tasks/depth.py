"""Depth maps as images and tensors, with models of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import BeforeValidator, Field

from app.tasks.edges import Resolution, at_resolution, size_at
from app.tasks.resize import ImageArguments, Side
from app.tasks.task import OPENCV, Loaded, Loads, Task

if TYPE_CHECKING:
    from app.tasks.media import Array

DPT_HYBRID, DPT_LARGE = "Intel/dpt-hybrid-midas", "Intel/dpt-large"
ZOE = "Intel/zoedepth-nyu-kitti"
Named = Annotated[str, Field(min_length=1)]
DType = Annotated[
    Literal["float32", "float16", "bfloat16"],
    BeforeValidator(lambda value: str(value).removeprefix("torch.")),
]
"""A name while planning, torch's dtype when it runs."""


class Depth(ImageArguments):
    height: Side = 1024
    width: Side = 1024
    model_name: Named = DPT_HYBRID


class Estimate(ImageArguments):
    model_name: Named = DPT_LARGE


class EstimateTensor(Estimate):
    dtype: DType = "float32"


class Midas(ImageArguments):
    detect_resolution: Resolution = 512
    image_resolution: Resolution = 512
    model_name: Named = DPT_HYBRID


class Zoe(ImageArguments):
    detect_resolution: Resolution = 512
    image_resolution: Resolution = 512
    gamma_corrected: bool = False
    model_name: Named = ZOE


class ZoeNative(ImageArguments):
    model_name: Named = ZOE


def depth(arguments: Depth, loaded: Loaded) -> Image.Image:
    """Returns depth (near is white) in the requested size, stretched from black to white."""
    import cv2

    size = (arguments.width, arguments.height)
    found = cv2.resize(_estimated(arguments.image, loaded), size, interpolation=cv2.INTER_CUBIC)
    return _grey(_stretched(found))


def depth_estimator(arguments: Estimate, loaded: Loaded) -> Image.Image:
    """Returns depth (near is white) in the image's own size."""
    return _grey(_own_size(arguments.image, loaded))


def depth_estimator_tensor(arguments: EstimateTensor, loaded: Loaded) -> Any:
    """Returns depth as a tensor (1, 3, height, width) of 0..1, for Kandinsky's ControlNet."""
    import numpy as np
    import torch

    image = np.asarray(_grey(_own_size(arguments.image, loaded)))
    hint = torch.from_numpy(image.copy()).float() / 255.0
    return hint.permute(2, 0, 1).unsqueeze(0).to(loaded.device, getattr(torch, arguments.dtype))


def midas(arguments: Midas, loaded: Loaded) -> Image.Image:
    """Returns depth (near is white), detected and resized at the requested resolutions."""
    pixels = at_resolution(arguments.image, arguments.detect_resolution)
    found = _grey(_own_size(Image.fromarray(pixels), loaded))
    size = size_at(arguments.image_resolution, pixels.shape)
    return found.resize(size, Image.Resampling.BILINEAR)


def zoe(arguments: Zoe, loaded: Loaded) -> Image.Image:
    """Returns depth (near is white) with the farthest 15 % black, for more greys nearby.

    Uses the two percentiles and the gamma of controlnet_aux's ZoeDetector.
    """
    pixels = at_resolution(arguments.image, arguments.detect_resolution)
    near = _nearness(Image.fromarray(pixels), loaded)
    found = _grey(near**2.2 if arguments.gamma_corrected else near)
    size = size_at(arguments.image_resolution, pixels.shape)
    return found.resize(size, Image.Resampling.BILINEAR)


def zoe_depth(arguments: ZoeNative, loaded: Loaded) -> Image.Image:
    """Returns Zoe's depth in the image's own size."""
    return _grey(_nearness(arguments.image, loaded))


def _own_size(image: Image.Image, loaded: Loaded) -> Array:
    """Returns nearness of 0..1, an array (height, width) in the image's size."""
    import cv2

    found = cv2.resize(_estimated(image, loaded), image.size, interpolation=cv2.INTER_CUBIC)
    return _stretched(found)


def _nearness(image: Image.Image, loaded: Loaded) -> Array:
    """Returns nearness from metric depth: 1 for the nearest 2 %, 0 for the farthest 15 %."""
    import cv2
    import numpy as np

    far = _estimated(image, loaded)
    # Zoe's processor pads the image with mirrored edges for a better estimate there; the padding is
    # cropped here.
    padded = loaded.components["image_processor"].do_pad
    pads = [int(np.sqrt(side / 2) * 3) if padded else 0 for side in image.size]
    width, height = (side + 2 * pad for side, pad in zip(image.size, pads, strict=True))
    far = cv2.resize(far, (width, height), interpolation=cv2.INTER_CUBIC)
    far = far[pads[1] : height - pads[1], pads[0] : width - pads[0]]
    nearest, farthest = np.percentile(far, 2), np.percentile(far, 85)
    spread = max(float(farthest - nearest), 1e-6)
    return (1 - (far - nearest) / spread).clip(0, 1)  # type: ignore[no-any-return]


def _estimated(image: Image.Image, loaded: Loaded) -> Array:
    """Returns the model's output, an array (height, width) of float32 in its own size."""
    model = loaded.components["model"]
    seen = loaded.components["image_processor"](image.convert("RGB"), return_tensors="pt")
    found = model(seen["pixel_values"].to(loaded.device, model.dtype)).predicted_depth
    return found[0].float().cpu().numpy()  # type: ignore[no-any-return]


def _stretched(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-6)


def _grey(values: Array) -> Image.Image:
    """Returns values of 0..1 as a grey RGB image."""
    import numpy as np

    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")


def _loads(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    model = values["model_name"]
    return (
        Loads("model", "transformers.AutoModelForDepthEstimation", model),
        Loads("image_processor", "transformers.AutoImageProcessor", model),
    )


_task = partial(Task, loads=_loads, packages=(OPENCV,))
DEPTH = _task(Depth, depth, gives="image")
ESTIMATOR = _task(Estimate, depth_estimator, gives="image")
ESTIMATOR_TENSOR = _task(EstimateTensor, depth_estimator_tensor, gives="tensor")
MIDAS = _task(Midas, midas, gives="image")
ZOE_AT_RESOLUTION = _task(Zoe, zoe, gives="image")
ZOE_NATIVE = _task(ZoeNative, zoe_depth, gives="image")
