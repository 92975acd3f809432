"""Control images that need no model: edges, line art, shuffles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field

from app.tasks.media import fitting
from app.tasks.resize import ImageArguments
from app.tasks.task import OPENCV, Task

if TYPE_CHECKING:
    import numpy as np

Threshold = Annotated[float, Field(ge=0, le=10_000)]
Resolution = Annotated[int, Field(ge=64, le=8192)]
"""Short side in pixels; both sides become multiples of 64."""


class NativeCanny(ImageArguments):
    low_threshold: Threshold = 100
    high_threshold: Threshold = 200


class Canny(NativeCanny):
    detect_resolution: Resolution = 512
    image_resolution: Resolution = 512


class Lineart(ImageArguments):
    guassian_sigma: Annotated[float, Field(gt=0, le=100)] = 6.0
    """The dialect's spelling."""
    intensity_threshold: Annotated[float, Field(ge=0, le=255)] = 8
    detect_resolution: Resolution = 512


class Shuffle(ImageArguments):
    h: Annotated[int, Field(ge=1, le=8192)] | None = None
    w: Annotated[int, Field(ge=1, le=8192)] | None = None
    f: Annotated[int, Field(ge=2, le=2048)] = 256
    """Approximate size in pixels of regions that stay together."""
    detect_resolution: Resolution = 512
    image_resolution: Resolution = 512


def canny_cv(arguments: NativeCanny) -> Image.Image:
    """Returns Canny edges, white on black, in the image's own size."""
    import numpy as np

    return Image.fromarray(_canny(np.asarray(arguments.image.convert("RGB")), arguments))


def canny(arguments: Canny) -> Image.Image:
    """Returns Canny edges, white on black, detected and resized at the requested resolutions."""
    import cv2

    pixels = at_resolution(arguments.image, arguments.detect_resolution)
    edges = _canny(pixels, arguments)
    size = size_at(arguments.image_resolution, pixels.shape)
    return Image.fromarray(cv2.resize(edges, size, interpolation=cv2.INTER_LINEAR))


def lineart_standard(arguments: Lineart) -> Image.Image:
    """Returns pixels darker than their surroundings as light lines on black, in the image's size.

    The lines are the difference to a blurred copy, scaled so that the median of those above
    `intensity_threshold` becomes half bright (as controlnet_aux's LineartStandardDetector does).
    """
    import cv2
    import numpy as np

    pixels = at_resolution(arguments.image, arguments.detect_resolution).astype(np.float32)
    blurred = cv2.GaussianBlur(pixels, (0, 0), arguments.guassian_sigma)
    darker = (blurred - pixels).min(axis=2).clip(0, 255)
    lines = darker[darker > arguments.intensity_threshold]
    median = max(16.0, float(np.median(lines))) if lines.size else 16.0
    grey = (darker / median * 127).clip(0, 255).astype(np.uint8)
    grown = cv2.resize(grey, arguments.image.size, interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(grown).convert("RGB")


def shuffle(arguments: Shuffle, random: np.random.Generator) -> Image.Image:
    """Returns the image warped by smooth noise, as controlnet_aux's ContentShuffleDetector."""
    import cv2
    import numpy as np

    pixels = at_resolution(arguments.image, arguments.detect_resolution)
    height, width = pixels.shape[:2]
    shape = (arguments.h or height, arguments.w or width)
    x, y = (
        _smooth_noise(shape, arguments.f, random) * np.float32(side - 1) for side in (width, height)
    )
    shuffled = cv2.remap(pixels, x, y, cv2.INTER_LINEAR)
    size = size_at(arguments.image_resolution, pixels.shape)
    return Image.fromarray(cv2.resize(shuffled, size, interpolation=cv2.INTER_LINEAR))


def _canny(pixels: Any, arguments: NativeCanny) -> Any:
    import cv2

    edges = cv2.Canny(pixels, arguments.low_threshold, arguments.high_threshold)
    return cv2.cvtColor(edges, cv2.COLOR_GRAY2RGB)


def at_resolution(image: Image.Image, resolution: int) -> Any:
    """Returns the image as an array (height, width, 3) with its short side near `resolution`."""
    import cv2
    import numpy as np

    pixels = np.asarray(image.convert("RGB"))
    grows = resolution > min(image.size)
    method = cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA
    return cv2.resize(pixels, size_at(resolution, pixels.shape), interpolation=method)


def size_at(resolution: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns width and height with the short side near `resolution`, both multiples of 64."""
    height, width = shape[:2]
    scale = resolution / min(height, width) / 64
    return fitting(max(1, round(width * scale)) * 64, max(1, round(height * scale)) * 64)


def _smooth_noise(shape: tuple[int, int], grain: int, random: np.random.Generator) -> Any:
    """Returns noise of 0..1 of this shape that varies over about `grain` pixels."""
    import cv2
    import numpy as np

    height, width = shape
    coarse = random.random((height // grain + 2, width // grain + 2), dtype=np.float32)
    size = (coarse.shape[1] * grain, coarse.shape[0] * grain)
    # Crops half a grain at each side, where the noise would be flat.
    start = grain // 2
    noise = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    cut = noise[start : start + height, start : start + width]
    spread = cut.max() - cut.min()
    return (cut - cut.min()) / spread if spread else np.zeros_like(cut)


CANNY_NATIVE = Task(NativeCanny, canny_cv, gives="image", packages=(OPENCV,))
CANNY = Task(Canny, canny, gives="image", packages=(OPENCV,))
LINEART = Task(Lineart, lineart_standard, gives="image", packages=(OPENCV,))
SHUFFLE = Task(Shuffle, shuffle, gives="image", random=True, packages=(OPENCV,))
