"""Arithmetic of a video in segments: how many, how long, and where they meet.

Frames and samples are counted from the start of the whole video. Every segment after the first
begins with frames that end the one before it; those are trimmed.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field, StrictInt

from app.dialect.setting_blocks import Block

MAX_SEGMENTS = 1000


class FrameSnap(Block):
    """The numbers of frames a model can make: any multiple of modulus, plus the remainder."""

    modulus: Annotated[StrictInt, Field(ge=1)]
    remainder: Annotated[StrictInt, Field(ge=0)]
    min_frames: Annotated[StrictInt, Field(ge=1)] = 1
    max_frames: Annotated[StrictInt, Field(ge=1)] | None = None

    def fits(self, frames: int) -> bool:
        """Returns True if the model can make a segment of so many frames."""
        most = frames if self.max_frames is None else self.max_frames
        on_grid = frames % self.modulus == self.remainder % self.modulus
        return on_grid and self.min_frames <= frames <= most

    def up(self, frames: int) -> int | None:
        """Returns the least number of frames that is enough and possible, or None."""
        least = max(frames, self.min_frames)
        snapped = least + (self.remainder - least) % self.modulus
        return snapped if self.fits(snapped) else None

    def in_words(self) -> str:
        """`8n + 1 from 9 to 121`."""
        words = f"{self.modulus}n + {self.remainder}"
        if self.min_frames > 1:
            words += f" from {self.min_frames}"
        return words if self.max_frames is None else f"{words} to {self.max_frames}"


class Segment(NamedTuple):
    """One call of the pipeline."""

    start: int
    """The frame of the video at which it begins, including its trimmed frames."""
    frames: int
    """The number of frames to ask for."""


def segments_to_cover(
    total: int, frames: int, trim: int, snap: FrameSnap | None = None
) -> list[Segment]:
    """Returns the segments of a video of at least `total` frames, each of `frames` but the last,
    which is as short as possible.

    Raises ValueError where that takes more than MAX_SEGMENTS, or has no end.
    """
    if frames <= trim:
        raise ValueError(f"a segment of {frames} frames has none left of which {trim} are trimmed")
    segments = [Segment(0, _needed_frames(total, frames, snap))]
    made = segments[0].frames
    while made < total:
        if len(segments) == MAX_SEGMENTS:
            raise ValueError(f"{total} frames take more than {MAX_SEGMENTS} segments")
        start = made - trim
        segments.append(Segment(start, _needed_frames(total - start, frames, snap)))
        made = start + segments[-1].frames
    return segments


def _needed_frames(wanted: int, frames: int, snap: FrameSnap | None) -> int:
    """Returns the wanted number of frames, or the usual number where that is less."""
    if wanted >= frames:
        return frames
    snapped = wanted if snap is None else snap.up(wanted)
    return frames if snapped is None else min(snapped, frames)


def frames_lasting(samples: int, rate: int, fps: float) -> int:
    """Returns the number of frames that last as long as the audio, rounded; at least one."""
    return max(1, round(samples / rate * fps))


def crossfade_window(crossfade_ms: float, rate: int, trimmed: int, before: int) -> int:
    """Returns the number of samples over which two segments overlap: at most the trimmed ones of
    the second, and the length of the first."""
    return max(0, min(round(crossfade_ms / 1000 * rate), trimmed, before))
