"""Reads a plan's media files: images, videos with audio, and audio."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.dialect.plan_values import FileValue
from app.errors import StepError
from app.media import images
from app.media.files import CONTAINERS, KIND_NAMES, MediaKind, check_channels, check_stream
from app.media.images import WrongMediaError
from app.planning.objects import DATA_CLASSES, data_class
from app.settings import MediaLimits
from app.tasks.media import AudioVideo, as_audio, as_image, check_video
from app.units import size

if TYPE_CHECKING:
    from app.tasks.media import Array

CancelPoint = Callable[[], None]
"""Called between frames; raises if the run was cancelled."""


class MediaReader:
    """Reads the files of one step, within a limit of decoded bytes for all of them."""

    def __init__(self, limits: MediaLimits, cancel_point: CancelPoint) -> None:
        self._limits = limits
        self._cancel_point = cancel_point
        self._decoded_bytes = 0

    def read(self, value: FileValue) -> Any:
        """Returns the content of this file. Raises StepError."""
        if value.kind == "image":
            return self.image(value.path, is_mask=value.is_mask)
        return self.video(value.path) if value.kind == "video" else self.audio(value.path)

    def image(self, path: str, *, is_mask: bool = False) -> Any:
        """Returns the image as RGB, rotated by its EXIF orientation. Raises StepError."""
        most = self._limits.max_picture_pixels
        try:
            if is_mask:
                found = images.read_mask(Path(path), most)
            else:
                found = images.read(Path(path), most, self._limits.picture_background)
        except WrongMediaError as error:
            raise StepError(f"A picture can no longer be read: {error}") from error
        self._count(path, 3 * found.width * found.height)
        return found

    def video(self, path: str) -> AudioVideo:
        """Returns frames of 0..255 (frames, height, width, 3), rotated by the file's metadata,
        with the audio if any. Raises StepError."""
        import numpy as np

        with self._opened(path, "video") as container:
            stream = container.streams.video[0]
            frames: list[Array] = []
            for frame in container.decode(stream):
                self._cancel_point()
                turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                self._count(path, turned.nbytes)
                if frames and turned.shape != frames[0].shape:
                    raise StepError(f"The frames of '{Path(path).name}' have several sizes.")
                frames.append(turned)
            fps = float(stream.average_rate) if stream.average_rate else None
            has_audio = bool(container.streams.audio)
        if not frames:
            raise StepError(f"The video '{Path(path).name}' has no frames.")
        audio = self.audio(path) if has_audio else AudioVideo((), None, None)
        whole = np.empty((len(frames), *frames[0].shape), frames[0].dtype)
        return AudioVideo(_filled(whole, frames), audio.audio, audio.sample_rate, fps)

    def audio(self, path: str) -> AudioVideo:
        """Returns the audio of an audio or video file, without frames. Raises StepError."""
        import av
        import numpy as np

        with self._opened(path, "audio") as container:
            stream = container.streams.audio[0]
            # Decoders have a dozen formats; "fltp" is one plane of floats per channel.
            resampler = av.AudioResampler(format="fltp")
            parts: list[Array] = []
            for frame in container.decode(stream):
                self._cancel_point()
                # Frames may have more channels than their stream declares.
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
        """Opens the file, only as the format of its suffix."""
        import av

        name, container_name = Path(path).name, CONTAINERS[Path(path).suffix.lower()]
        try:
            with av.open(path, format=container_name, metadata_errors="replace") as container:
                found = container.streams.video if kind == "video" else container.streams.audio
                if not found:
                    raise WrongMediaError(f"'{name}' cannot be read as a {KIND_NAMES[kind]}.")
                check_stream(found[0], kind, self._limits, name)
                yield container
        except WrongMediaError as error:
            raise StepError(str(error)) from error
        except (av.FFmpegError, OSError) as error:
            raise StepError(
                f"The {KIND_NAMES[kind]} '{name}' cannot be read.", hint=f"{error}"
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
    """Fills the array with the parts and frees each part at once, so that they are not in memory
    twice. `joined`: concatenates the parts instead of one per entry."""
    start = 0
    while parts:
        # Popping from the end of a list does not move the others.
        part = parts.pop()
        start += len(part) if joined else 1
        if joined:
            whole[len(whole) - start : len(whole) - start + len(part)] = part
        else:
            whole[-start] = part
    return whole


# --- objects --------------------------------------------------------------------------------------


def build(class_name: str, media: Any, arguments: Mapping[str, Any]) -> Any:
    """Returns the object; `media` is an image, a video or audio, as its class needs, or None.

    `arguments` override the media's own frame rate and sample rate. Raises StepError.
    """
    module = importlib.import_module(f"diffusers.{DATA_CLASSES[class_name]}")
    known = data_class(class_name)
    try:
        made_of = {} if media is None or known.kind is None else _FIELDS[known.kind](media)
        given = {name: value for name, value in made_of.items() if name in known.fields}
        return getattr(module, class_name)(**{**given, **arguments})
    except (TypeError, ValueError) as error:
        raise StepError(f"A {class_name} cannot be created: {error}.") from error


def _of_image(media: Any) -> dict[str, Any]:
    return {"image": as_image(media).convert("RGB")}


def _of_video(media: Any) -> dict[str, Any]:
    check_video(media)
    if not isinstance(media, AudioVideo):
        return {"frames": media}
    fields = {"frames": media.frames}
    if media.audio is not None:
        fields |= _of_audio(media)
    return fields if media.fps is None else {**fields, "fps": media.fps}


def _of_audio(media: Any) -> dict[str, Any]:
    import torch

    samples = torch.from_numpy(as_audio(media).T.copy())
    if isinstance(media, AudioVideo):
        return {"audio": samples, "sample_rate": media.sample_rate}
    return {"audio": samples}


_FIELDS = {"image": _of_image, "video": _of_video, "audio": _of_audio}


# --- resampling -----------------------------------------------------------------------------------

LAYOUTS = {1: "mono", 2: "stereo"}


def resample_references(arguments: Mapping[str, Any], rate: int | None) -> Mapping[str, Any]:
    """Returns the arguments with the audio of all `references` at this rate; None: unchanged.

    The library would need torchaudio for this, which nothing else here needs.
    """
    references = arguments.get("references")
    if rate is None or not isinstance(references, list):
        return arguments
    return {**arguments, "references": [_at_rate(each, rate) for each in references]}


def _at_rate(reference: Any, rate: int) -> Any:
    import torch

    audio, own = getattr(reference, "audio", None), getattr(reference, "sample_rate", None)
    if audio is None or own in (None, rate) or audio.shape[0] not in LAYOUTS:
        return reference
    found = copy.copy(reference)
    samples = torch.as_tensor(audio).detach().cpu().float().numpy()
    found.audio = torch.from_numpy(resampled(samples, int(own), rate))
    found.sample_rate = rate
    return found


def resampled(audio: Array, own: int, rate: int) -> Array:
    """Returns the audio (channels, samples) resampled from `own` to `rate`, in Hz."""
    import av
    import numpy as np

    layout = LAYOUTS[audio.shape[0]]
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(audio, dtype=np.float32), format="fltp", layout=layout
    )
    frame.sample_rate = own
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray() for part in parts], axis=1)
