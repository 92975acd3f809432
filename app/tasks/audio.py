"""Slices, joins and crossfades audio: arrays (samples, channels) of float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from app.errors import StepError
from app.tasks.media import AudioVideo, as_audio
from app.tasks.task import UNKNOWN, Arguments, AudioInput, Task

if TYPE_CHECKING:
    from app.tasks.media import Array

DECLICK_MS = 3
"""Fade at a seam without crossfade, to avoid a click."""
Rate = Annotated[int, Field(ge=1000, le=768_000)]
"""Sample rate in Hz."""
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]
FramesPerSecond = Annotated[float, Field(gt=0, le=1000)]
BY_TIME = ("start_seconds", "duration_seconds")
BY_FRAMES = ("start_frame", "num_frames", "fps")


class Slice(Arguments):
    audio: AudioInput
    start_seconds: Annotated[float, Field(ge=0)] | None = None
    duration_seconds: Annotated[float, Field(gt=0, le=36_000)] | None = None
    start_frame: Annotated[int, Field(ge=0)] | None = None
    num_frames: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    fps: FramesPerSecond | None = None
    sample_rate: Rate | None = None
    """For audio that does not carry its own."""

    @model_validator(mode="after")
    def _says_what_to_cut(self) -> Slice:
        given = {name for name in (*BY_TIME, *BY_FRAMES) if getattr(self, name) is not None}
        if given not in (set(BY_TIME), set(BY_FRAMES)):
            raise ValueError(
                "either start_seconds and duration_seconds, or start_frame, num_frames and fps"
                " are needed"
            )
        bare = self.audio is not UNKNOWN and not isinstance(self.audio, AudioVideo)
        if bare and self.sample_rate is None:
            raise ValueError("the sound has no sample rate; give sample_rate")
        return self


class Crossfade(Arguments):
    audios: Annotated[list[AudioInput], Field(min_length=1)]
    crossfade_ms: Milliseconds = 75
    sample_rate: Rate


def slice_audio(arguments: Slice) -> Array:
    """Returns a slice of the audio, padded with silence."""
    audio = as_audio(arguments.audio)
    rate = arguments.sample_rate or arguments.audio.sample_rate
    if arguments.start_seconds is not None and arguments.duration_seconds is not None:
        start, length = (
            round(s * rate) for s in (arguments.start_seconds, arguments.duration_seconds)
        )
    else:
        assert arguments.start_frame is not None
        assert arguments.num_frames is not None
        assert arguments.fps is not None
        start = samples_lasting(arguments.start_frame, arguments.fps, rate)
        length = samples_lasting(arguments.num_frames, arguments.fps, rate)
    return padded(audio[start : start + length], length)


def crossfade_audio(arguments: Crossfade) -> Array:
    """Returns the audios joined with equal-power crossfades, each shortening the whole."""
    joined, *others = (as_audio(audio) for audio in arguments.audios)
    for audio in others:
        window = round(arguments.crossfade_ms / 1000 * arguments.sample_rate)
        window = min(window, len(joined), len(audio))
        joined = join(joined, audio[:window], audio[window:], window, arguments.sample_rate)
    return joined


def join(before: Array, head: Array, after: Array, window: int, rate: int) -> Array:
    """Joins `before` and `after`, with a crossfade from the last `window` samples of `before` to
    those of `head`; without a window, with short fades.

    `head` is what precedes `after`, and is heard only in the crossfade. The curves are quarter
    periods of cosine and sine, whose squares add up to one.
    """
    import numpy as np

    before, head, after = _with_same_channels(before, head, after)
    if window:
        falling, rising = _ramps(window)
        tail = before[-window:] * falling + head[-window:] * rising
        return np.concatenate([before[:-window], tail, after])
    falling, rising = _ramps(min(rate * DECLICK_MS // 1000, len(before), len(after)))
    length = len(falling)
    faded_out = before[len(before) - length :] * falling
    parts = [before[: len(before) - length], faded_out, after[:length] * rising, after[length:]]
    return np.concatenate(parts)


def samples_lasting(frames: int, fps: float, rate: int) -> int:
    """Returns the number of samples that last as long as so many frames."""
    return round(frames / fps * rate)


def padded(audio: Array, length: int) -> Array:
    """Returns the audio padded with silence to `length` samples."""
    import numpy as np

    return np.pad(audio, ((0, max(0, length - len(audio))), (0, 0)))


def _ramps(length: int) -> tuple[Any, Any]:
    """Returns a falling and a rising column of equal power, of so many samples."""
    import numpy as np

    angle = (np.arange(length, dtype=np.float32)[:, None] + 0.5) / max(1, length) * (np.pi / 2)
    return np.cos(angle), np.sin(angle)


def _with_same_channels(*audios: Array) -> list[Array]:
    """Returns the audios with mono ones repeated to the others' channels. Raises StepError."""
    import numpy as np

    most = max(audio.shape[1] for audio in audios)
    if any(audio.shape[1] not in (1, most) for audio in audios):
        counts = ", ".join(str(audio.shape[1]) for audio in audios)
        raise StepError(f"Sounds of different numbers of channels ({counts}) cannot be joined.")
    return [s if s.shape[1] == most else np.repeat(s, most, axis=1) for s in audios]


SLICE = Task(Slice, slice_audio, gives="audio")
CROSSFADE = Task(Crossfade, crossfade_audio, gives="audio")
