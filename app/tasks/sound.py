"""Sounds: cut, joined, faded into each other. Arrays (samples, channels) of float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from app.errors import StepError
from app.tasks.media import AudioVideo, as_sound
from app.tasks.task import UNKNOWN, Arguments, Sound, Task

if TYPE_CHECKING:
    from app.tasks.media import Array

DECLICK_MS = 3
"""Of a seam with nothing to fade across: enough not to be heard as a click."""
Rate = Annotated[int, Field(ge=1000, le=768_000)]
"""Samples per second."""
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]
FramesPerSecond = Annotated[float, Field(gt=0, le=1000)]
BY_TIME = ("start_seconds", "duration_seconds")
BY_FRAMES = ("start_frame", "num_frames", "fps")


class Slice(Arguments):
    audio: Sound
    start_seconds: Annotated[float, Field(ge=0)] | None = None
    duration_seconds: Annotated[float, Field(gt=0, le=36_000)] | None = None
    start_frame: Annotated[int, Field(ge=0)] | None = None
    num_frames: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    fps: FramesPerSecond | None = None
    sample_rate: Rate | None = None
    """Of a sound that does not carry its own."""

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
            raise ValueError("the sound does not carry its sample rate; give sample_rate")
        return self


class Crossfade(Arguments):
    audios: Annotated[list[Sound], Field(min_length=1)]
    crossfade_ms: Milliseconds = 75
    sample_rate: Rate


def slice_audio(arguments: Slice) -> Array:
    """So much of the sound from that moment on; silence where it has ended."""
    sound = as_sound(arguments.audio)
    rate = arguments.sample_rate or arguments.audio.sample_rate
    if arguments.start_seconds is not None and arguments.duration_seconds is not None:
        start, length = (
            round(s * rate) for s in (arguments.start_seconds, arguments.duration_seconds)
        )
    else:
        assert arguments.start_frame is not None
        assert arguments.num_frames is not None
        assert arguments.fps is not None
        start = samples_of(arguments.start_frame, arguments.fps, rate)
        length = samples_of(arguments.num_frames, arguments.fps, rate)
    return padded(sound[start : start + length], length)


def crossfade_audio(arguments: Crossfade) -> Array:
    """The sounds one after the other; at every seam the end of one and the start of the next are
    heard at once, at equal power, so the whole is shorter by one window a seam."""
    joined, *others = (as_sound(audio) for audio in arguments.audios)
    for sound in others:
        window = round(arguments.crossfade_ms / 1000 * arguments.sample_rate)
        window = min(window, len(joined), len(sound))
        joined = join(joined, sound[:window], sound[window:], window, arguments.sample_rate)
    return joined


def join(before: Array, head: Array, after: Array, window: int, rate: int) -> Array:
    """`before` and `after` as one sound, with a crossfade over the last `window` samples of
    `before` into those of `head`; without a window each side is faded for a moment.

    `head` is what `after` follows on: it lasts as long as the end of `before` and is heard only in
    the crossfade. The curves are a quarter of a cosine and of a sine, whose squares add up to one.
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


def samples_of(frames: int, fps: float, rate: int) -> int:
    """How many samples last as long as so many frames."""
    return round(frames / fps * rate)


def padded(sound: Array, length: int) -> Array:
    """The sound with silence after it, `length` samples in all."""
    import numpy as np

    return np.pad(sound, ((0, max(0, length - len(sound))), (0, 0)))


def _ramps(length: int) -> tuple[Any, Any]:
    """A falling and a rising column of so many samples, of equal power together."""
    import numpy as np

    angle = (np.arange(length, dtype=np.float32)[:, None] + 0.5) / max(1, length) * (np.pi / 2)
    return np.cos(angle), np.sin(angle)


def _with_same_channels(*sounds: Array) -> list[Array]:
    """A sound of one channel is heard in all of the others' channels. Raises StepError."""
    import numpy as np

    most = max(sound.shape[1] for sound in sounds)
    if any(sound.shape[1] not in (1, most) for sound in sounds):
        counts = ", ".join(str(sound.shape[1]) for sound in sounds)
        raise StepError(f"Sounds of different numbers of channels ({counts}) cannot be joined.")
    return [s if s.shape[1] == most else np.repeat(s, most, axis=1) for s in sounds]


SLICE = Task(Slice, slice_audio, gives="audio")
CROSSFADE = Task(Crossfade, crossfade_audio, gives="audio")
