"""Files of a plan as what a call takes: pictures, videos with their sound, sounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import StepError
from app.media import pictures
from app.media.files import CALLED, CONTAINERS, MediaKind, check_channels, check_stream
from app.media.pictures import WrongMediaError
from app.settings import MediaLimits
from app.tasks.media import AudioVideo
from app.units import size

if TYPE_CHECKING:
    from app.tasks.media import Array

Checkpoint = Callable[[], None]
"""Called between frames; raises where the run was cancelled."""


class MediaReader:
    """Reads the files of one step; decoded they may all together have so many bytes."""

    def __init__(self, limits: MediaLimits, checkpoint: Checkpoint) -> None:
        self._limits = limits
        self._checkpoint = checkpoint
        self._decoded_bytes = 0

    def picture(self, path: str) -> Any:
        """Returns the picture as RGB, turned as its camera says. Raises StepError."""
        try:
            found = pictures.read(Path(path), self._limits.max_picture_pixels)
        except WrongMediaError as error:
            raise StepError(f"A picture can no longer be read: {error}") from error
        self._count(path, 3 * found.width * found.height)
        return found

    def video(self, path: str) -> AudioVideo:
        """Returns frames of 0..255 (frames, height, width, 3), turned as the camera says, with the
        sound if there is one. Raises StepError."""
        import numpy as np

        with self._opened(path, "video") as container:
            stream = container.streams.video[0]
            frames: list[Array] = []
            for frame in container.decode(stream):
                self._checkpoint()
                turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                self._count(path, turned.nbytes)
                if frames and turned.shape != frames[0].shape:
                    raise StepError(f"The frames of '{Path(path).name}' have several sizes.")
                frames.append(turned)
            fps = float(stream.average_rate) if stream.average_rate else None
            has_sound = bool(container.streams.audio)
        if not frames:
            raise StepError(f"The video '{Path(path).name}' has no frames.")
        sound = self.sound(path) if has_sound else AudioVideo((), None, None)
        whole = np.empty((len(frames), *frames[0].shape), frames[0].dtype)
        return AudioVideo(_filled(whole, frames), sound.audio, sound.sample_rate, fps)

    def sound(self, path: str) -> AudioVideo:
        """Returns the sound in this file, or of this video; it has no frames. Raises StepError."""
        import av
        import numpy as np

        with self._opened(path, "audio") as container:
            stream = container.streams.audio[0]
            # The decoder's own format is any of a dozen; one plane of floats a channel is asked
            # for.
            resampler = av.AudioResampler(format="fltp")
            parts: list[Array] = []
            for frame in container.decode(stream):
                self._checkpoint()
                # A stream may say of itself what its frames do not keep.
                check_channels(frame.layout.nb_channels, Path(path).name)
                for each in resampler.resample(frame):
                    samples = each.to_ndarray().T
                    self._count(path, samples.nbytes)
                    if parts and samples.shape[1] != parts[0].shape[1]:
                        raise StepError(f"The sound of '{Path(path).name}' changes its channels.")
                    parts.append(samples)
            parts += [each.to_ndarray().T for each in resampler.resample(None)]
            rate = stream.rate
        if not parts:
            raise StepError(f"The sound of '{Path(path).name}' has no samples.")
        whole = np.empty((sum(map(len, parts)), parts[0].shape[1]), np.float32)
        return AudioVideo((), _filled(whole, parts, joined=True), rate)

    @contextmanager
    def _opened(self, path: str, kind: MediaKind) -> Iterator[Any]:
        """Opens the file, taken for nothing but the format that its name says."""
        import av

        name, container_name = Path(path).name, CONTAINERS[Path(path).suffix.lower()]
        try:
            with av.open(path, format=container_name, metadata_errors="replace") as container:
                found = container.streams.video if kind == "video" else container.streams.audio
                if not found:
                    raise WrongMediaError(f"'{name}' cannot be read as a {CALLED[kind]}.")
                check_stream(found[0], kind, self._limits, name)
                yield container
        except WrongMediaError as error:
            raise StepError(str(error)) from error
        except (av.FFmpegError, OSError) as error:
            raise StepError(
                f"The {CALLED[kind]} '{name}' cannot be read.", hint=f"{error}"
            ) from error

    def _count(self, path: str, decoded_bytes: int) -> None:
        self._decoded_bytes += decoded_bytes
        if self._decoded_bytes > self._limits.max_decoded_bytes:
            raise StepError(
                f"With '{Path(path).name}' the files of this step are more than"
                f" {size(self._limits.max_decoded_bytes)} when they are decoded.",
                hint="Cut it shorter or make it smaller; DW_MAX_DECODED_BYTES raises the limit.",
            )


def _filled(whole: Array, parts: list[Array], *, joined: bool = False) -> Array:
    """Returns the array with the parts in it; each is let go as soon as it is there, so that they
    are not in memory twice. `joined`: one after the other instead of one an entry."""
    start = 0
    while parts:
        # From the end the list gives up its entries without moving the others.
        part = parts.pop()
        start += len(part) if joined else 1
        if joined:
            whole[len(whole) - start : len(whole) - start + len(part)] = part
        else:
            whole[-start] = part
    return whole
