"""Files of a plan as what a call takes: pictures, videos with their sound, sounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import StepError
from app.media.files import CONTAINERS, IMAGE_FORMATS
from app.tasks.media import AudioVideo
from app.units import size

if TYPE_CHECKING:
    from app.tasks.media import Array

MAX_DECODED_BYTES = 6_000_000_000
"""Of one video's frames or one sound's samples: 40 s of 1920 x 1080 at 24 frames per second."""
Checkpoint = Callable[[], None]
"""Called between frames; raises where the run was cancelled."""


def read_picture(path: str) -> Any:
    """The picture in this file, turned as its camera says, as RGB. Raises StepError."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as file:
            return _eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise StepError(f"The picture '{path}' can no longer be read.", hint=f"{error}") from error


def _eight_bits(picture: Any) -> Any:
    """A picture of 16 bits in 8: Pillow would cut off at 255, and nearly all of it be white."""
    import numpy as np
    from PIL import Image

    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))


def read_video(path: str, checkpoint: Checkpoint) -> AudioVideo:
    """The video in this file: frames of 0..255 (frames, height, width, 3), turned as its camera
    says, with its sound if it has one. Raises StepError."""
    import numpy as np

    with _opened(path, "video") as container:
        stream = container.streams.video[0]
        frames: list[Array] = []
        decoded_bytes = 0
        for frame in container.decode(stream):
            checkpoint()
            turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            decoded_bytes += turned.nbytes
            _check_size(path, decoded_bytes)
            frames.append(turned)
        fps = float(stream.average_rate) if stream.average_rate else None
        has_sound = bool(container.streams.audio)
    if not frames:
        raise StepError(f"The video '{Path(path).name}' has no frames.")
    sound = read_sound(path, checkpoint) if has_sound else AudioVideo((), None, None)
    return AudioVideo(np.stack(frames), sound.audio, sound.sample_rate, fps)


def read_sound(path: str, checkpoint: Checkpoint) -> AudioVideo:
    """The sound in this file, or of this video; it has no frames. Raises StepError."""
    import av
    import numpy as np

    with _opened(path, "sound") as container:
        stream = container.streams.audio[0]
        # The decoder's own format is any of a dozen; one plane of floats a channel is asked for.
        resampler = av.AudioResampler(format="fltp")
        parts: list[Array] = []
        decoded_bytes = 0
        for frame in container.decode(stream):
            checkpoint()
            for each in resampler.resample(frame):
                parts.append(each.to_ndarray())
                decoded_bytes += parts[-1].nbytes
                _check_size(path, decoded_bytes)
        parts += [each.to_ndarray() for each in resampler.resample(None)]
        rate = stream.rate
    if not parts:
        raise StepError(f"The sound of '{Path(path).name}' has no samples.")
    samples = np.ascontiguousarray(np.concatenate(parts, axis=1).T, dtype=np.float32)
    return AudioVideo((), samples, rate)


@contextmanager
def _opened(path: str, called: str) -> Iterator[Any]:
    """The file, taken for nothing but the format that its name says."""
    import av

    try:
        with av.open(path, format=CONTAINERS[Path(path).suffix.lower()]) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise StepError(
            f"The {called} '{Path(path).name}' cannot be read.", hint=f"{error}"
        ) from error


def _check_size(path: str, decoded_bytes: int) -> None:
    if decoded_bytes > MAX_DECODED_BYTES:
        raise StepError(
            f"'{Path(path).name}' is more than {size(MAX_DECODED_BYTES)} when it is decoded.",
            hint="Cut it shorter or make it smaller.",
        )
