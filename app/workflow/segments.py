"""The arithmetic of a film that is made in segments: how many, how long, and where they meet.

Frames and samples are counted from the start of the whole film. Every segment after the first
begins with frames that the one before it has ended with; those are trimmed.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field, StrictInt

from app.workflow.setting_blocks import Block

MAX_SEGMENTS = 1000


class FrameSnap(Block):
    """The numbers of frames a model can make: modulus times anything, plus the remainder."""

    modulus: Annotated[StrictInt, Field(ge=1)]
    remainder: Annotated[StrictInt, Field(ge=0)]
    min_frames: Annotated[StrictInt, Field(ge=1)] = 1
    max_frames: Annotated[StrictInt, Field(ge=1)] | None = None

    def fits(self, frames: int) -> bool:
        """Whether the model can make a segment of so many frames."""
        most = frames if self.max_frames is None else self.max_frames
        on_grid = frames % self.modulus == self.remainder % self.modulus
        return on_grid and self.min_frames <= frames <= most

    def up(self, frames: int) -> int | None:
        """The least number of frames it can make that is enough, or None."""
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
    """The frame of the film at which it begins, its trimmed frames included."""
    frames: int
    """As many as are asked for."""


def segments_to_cover(
    total: int, frames: int, trim: int, snap: FrameSnap | None = None
) -> list[Segment]:
    """The segments that make a film of at least `total` frames, each of `frames` but the last,
    which is as short as it can be.

    Raises ValueError where that takes more than MAX_SEGMENTS, or none ever.
    """
    if frames <= trim:
        raise ValueError(f"a segment of {frames} frames has none left of which {trim} are trimmed")
    segments = [Segment(0, _enough(total, frames, snap))]
    made = segments[0].frames
    while made < total:
        if len(segments) == MAX_SEGMENTS:
            raise ValueError(f"{total} frames take more than {MAX_SEGMENTS} segments")
        start = made - trim
        segments.append(Segment(start, _enough(total - start, frames, snap)))
        made = start + segments[-1].frames
    return segments


def _enough(wanted: int, frames: int, snap: FrameSnap | None) -> int:
    """As many frames as are wanted, or the usual number where that is less."""
    if wanted >= frames:
        return frames
    snapped = wanted if snap is None else snap.up(wanted)
    return frames if snapped is None else min(snapped, frames)


def frames_lasting(samples: int, rate: int, fps: float) -> int:
    """How many frames last as long as the sound, to the nearest; at least one."""
    return max(1, round(samples / rate * fps))


def crossfade_window(crossfade_ms: float, rate: int, trimmed: int, before: int) -> int:
    """Over how many samples two segments are heard at once: at most over what is trimmed of the
    second, and what there is of the first."""
    return max(0, min(round(crossfade_ms / 1000 * rate), trimmed, before))
