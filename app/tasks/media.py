"""Images, videos and audio as they pass between steps.

An image is a PIL image. A video is a list of images, an array (frames, height, width, 3) of 0..1 or
0..255, or an AudioVideo. Audio is an array (samples, channels) of -1..1, or an AudioVideo.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from app.errors import StepError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Frame = np.ndarray[Any, np.dtype[Any]]

DEFAULT_FPS = 8
"""Frame rate of a video without one, defined by the dialect."""
MAX_PIXELS = 128_000_000
"""Limit for images that a task makes: 400 MB of memory, four times the limit of uploads."""


@dataclass(frozen=True)
class AudioVideo:
    """A video with its audio."""

    frames: Any
    """Any video without audio."""
    audio: Array | None
    """(samples, channels), float32; None for a silent video."""
    sample_rate: int | None
    """In Hz; None for a silent video."""
    fps: float | None = None
    """Frame rate, if it comes from a file or a task."""


def fitting(width: int, height: int) -> tuple[int, int]:
    """Returns the size of an image to make, in pixels. Raises StepError if it is too large."""
    if width * height > MAX_PIXELS:
        raise StepError(
            f"A picture of {width}x{height} pixels is too large;"
            f" the maximum is {MAX_PIXELS / 1e6:.0f} million pixels.",
            hint="Ask for a smaller one.",
        )
    return width, height


def as_image(value: Any, *, deep: bool = False) -> Image.Image:
    """Returns the value as an image. Raises ValueError if it is none.

    Accepts arrays (height, width, channels) and tensors (channels, height, width) of one or three
    channels. Floats are 0..1, or -1..1 if any is negative, as in normal maps. With `deep`, one
    channel of floats becomes 16 bits instead of 8.
    """
    import numpy as np

    if isinstance(value, Image.Image):
        return value
    array = as_array(value)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{_kind(value)} is not a picture")
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        shape = "x".join(map(str, value.shape))
        raise ValueError(f"{_kind(value)} of {shape} numbers is not a picture")
    if array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 and array.min() < 0:
        array = (array + 1) / 2
    if deep and array.ndim == 2 and array.dtype != np.uint8:
        return Image.fromarray((array.clip(0, 1) * 65535).round().astype(np.uint16))
    return Image.fromarray(as_bytes(array))


def check_video(value: Any) -> None:
    """Raises ValueError if this is no video; checks the first frame only."""
    frames = as_array(value.frames if isinstance(value, AudioVideo) else value)
    if _is_array(frames, 4):
        return
    if not isinstance(frames, list | tuple | VideoFileFrames) or not frames:
        raise ValueError(f"{_kind(frames)} is not a video")
    as_image(frames[0])


def as_frames(value: Any) -> Array:
    """Returns the video as one array (frames, height, width, 3) of 0..255. Raises ValueError."""
    import numpy as np

    frames = as_array(value.frames if isinstance(value, AudioVideo) else value)
    if _is_array(frames, 4):
        return as_bytes(frames)
    check_video(frames)
    images = [np.asarray(as_image(frame).convert("RGB")) for frame in frames]
    if len({image.shape for image in images}) > 1:
        raise ValueError("the frames of a video must have the same size")
    return np.stack(images)


def as_array(value: Any) -> Any:
    """Returns a torch tensor (channels third from the end) as an array (channels last); other
    values unchanged."""
    import numpy as np

    if not hasattr(value, "detach"):
        return value
    array = value.detach().cpu().float().numpy()
    return np.moveaxis(array, -3, -1) if array.ndim in (3, 4) else array


def as_audio(value: Any) -> Array:
    """Returns audio as an array (samples, channels) of float32, -1..1. Raises ValueError.

    The shorter axis of an array is the channels; a leading batch of one is dropped.
    """
    import numpy as np

    found = value.audio if isinstance(value, AudioVideo) else value
    if found is None:
        raise ValueError("the video carries no sound")
    if hasattr(found, "detach"):
        found = found.detach().cpu().float().numpy()
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{_kind(found)} is not a sound")
    if found.ndim == 3 and found.shape[0] == 1:
        found = found[0]
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or not found.size:
        raise ValueError(f"an array of shape {found.shape} is not a sound")
    if np.issubdtype(found.dtype, np.integer):
        found = found / -float(np.iinfo(found.dtype).min)
    samples = found.T if found.shape[0] < found.shape[1] else found
    return np.ascontiguousarray(samples, dtype=np.float32)


def as_bytes(array: Any) -> Array:
    """Returns an array of 0..1 or 0..255 as uint8 of 0..255."""
    import numpy as np

    if array.dtype == np.uint8:
        return array  # type: ignore[no-any-return]
    return (array.clip(0, 1) * 255).round().astype(np.uint8)  # type: ignore[no-any-return]


def _is_array(value: Any, dimensions: int) -> bool:
    """Returns whether this is an RGB array of so many dimensions."""
    import numpy as np

    return isinstance(value, np.ndarray) and value.ndim == dimensions and value.shape[-1] == 3


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "a text"
    return f"a {type(value).__name__}"


# --- videos in files ------------------------------------------------------------------------------


class VideoFileFrames(Sequence["Frame"]):
    """The frames (height, width, 3) of 0..255 of several video files, concatenated."""

    def __init__(self, files: Sequence[tuple[Path, int]], length: int | None = None) -> None:
        """`files` are paths with frame counts; only the first `length` frames of all count."""
        self._files = tuple(files)
        there = sum(frames for _, frames in files)
        self._length = there if length is None else min(length, there)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._frames(), self._length)

    def _frames(self) -> Iterator[Frame]:
        import av

        for path, _ in self._files:
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    yield frame.to_ndarray(format="rgb24")

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Frame]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._length)
            return list(islice(self, start, stop, step)) if step > 0 else list(self)[index]
        number = index + self._length if index < 0 else index
        if not 0 <= number < self._length:
            raise IndexError(index)
        return next(islice(self, number, None))
