"""Makes a video in segments: one call of the pipeline for each, continuing the one before.

Each segment is joined to the video at once; in memory stays only what the next one continues from,
and, without `save_segments`, the frames.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from app.dialect.plan import Chain, PipelineStep
from app.dialect.segments import (
    Segment,
    crossfade_window,
    frames_lasting,
    segments_to_cover,
)
from app.errors import StepError
from app.tasks.audio import join, padded, samples_lasting
from app.tasks.media import AudioVideo, VideoFileFrames, as_audio, as_frames
from app.worker.steps.arguments import one_value
from app.worker.steps.step_output import artifacts_of

if TYPE_CHECKING:
    from app.tasks.media import Array
    from app.worker.context import RunContext
    from app.worker.results import ResultWriter

Call = Callable[[Mapping[str, Any]], list[Any]]
"""Calls the pipeline; returns its results."""


class Audio(NamedTuple):
    samples: Array
    """(samples, channels), float32."""
    rate: int


def chained(
    step: PipelineStep,
    chain: Chain,
    arguments: Mapping[str, Any],
    call: Call,
    context: RunContext,
    writer: ResultWriter,
    iteration: int,
) -> AudioVideo:
    """Returns the whole video. Raises StepError if a segment is no video or cannot be joined."""
    prompts = [one_value(prompt, "prompt", step.name, context) for prompt in chain.prompts]
    plan, given = _planned(chain, arguments)
    video = _Video(chain, step, writer, iteration)
    carry: AudioVideo | None = None
    for number, segment in enumerate(plan):
        context.cancel_point()
        context.segment = (number + 1, len(plan))
        changes: dict[str, Any] = {}
        if prompts:
            changes["prompt"] = prompts[min(number, len(prompts) - 1)]
        if given is not None:
            changes["num_frames"] = segment.frames
            changes["references"] = _with_slice(arguments["references"], given, segment, chain)
        if carry is not None:
            before = {**arguments, **changes}.get(chain.segment_argument)
            changes[chain.segment_argument] = _continued(before, carry, chain)
        made = _only_video(call({**arguments, **changes}), step)
        video.add(made)
        carry = _carried(made, chain)
    context.segment = None
    if given is None:
        return video.finished()
    total = frames_lasting(len(given.samples), given.rate, chain.fps or 0)
    return video.finished(total, given)


# --- planning segments ---------------------------------------------------------------------------


def _planned(chain: Chain, arguments: Mapping[str, Any]) -> tuple[Sequence[Segment], Audio | None]:
    """Returns the segments, and with `match_audio` the audio whose length they cover."""
    if chain.segments is not None:
        return [Segment(0, 0)] * chain.segments, None
    references = [each for each in arguments["references"] if _kind(each) == "audio"]
    if len(references) != 1:
        raise StepError(
            f"There are {len(references)} sounds among the references; 'match_audio' needs one."
        )
    (reference,) = references
    rate = reference.sample_rate
    if rate is None:
        raise StepError("The sound among the references has no sample rate.")
    audio = Audio(as_audio(reference.audio), int(rate))
    assert chain.fps is not None
    total = frames_lasting(len(audio.samples), audio.rate, chain.fps)
    try:
        return segments_to_cover(
            total, arguments["num_frames"], chain.trim_frames, chain.frame_snap
        ), audio
    except ValueError as error:
        raise StepError(f"The video cannot be made in segments: {error}.") from error


def _with_slice(
    references: Sequence[Any], audio: Audio, segment: Segment, chain: Chain
) -> list[Any]:
    """Returns the references with the segment's part of the audio, padded with silence."""
    import torch

    assert chain.fps is not None
    start, length = (samples_lasting(n, chain.fps, audio.rate) for n in segment)
    cut = padded(audio.samples[start : start + length], length)
    found = list(references)
    for index, reference in enumerate(found):
        if _kind(reference) == "audio":
            found[index] = copy.copy(reference)
            found[index].audio = torch.from_numpy(cut.T.copy())
    return found


# --- from one segment to the next ----------------------------------------------------------------


def _only_video(returned: list[Any], step: PipelineStep) -> AudioVideo:
    videos = [artifact for each in returned for artifact in artifacts_of(each)]
    if len(videos) != 1:
        raise StepError(
            f"A segment of step '{step.name}' made {len(videos)} results; a chain needs one"
            " video per segment.",
            hint="Ask for one video in that step.",
        )
    (video,) = videos
    audio = video if isinstance(video, AudioVideo) else AudioVideo(video, None, None)
    try:
        return AudioVideo(as_frames(video), audio.audio, audio.sample_rate)
    except ValueError as error:
        raise StepError(f"A segment of step '{step.name}' made no video: {error}.") from error


def _carried(video: AudioVideo, chain: Chain) -> AudioVideo:
    """Returns the end of this segment for the next one, copied so that the rest can be freed."""
    count = 1 if chain.continuity == "last_frame" else (chain.carry_frames or len(video.frames))
    frames = video.frames[-count:].copy()
    if chain.continuity == "last_frame" or not chain.carry_audio or video.audio is None:
        return AudioVideo(frames, None, None)
    audio = as_audio(video)
    if len(frames) < len(video.frames):
        rate = video.sample_rate or 0
        # Without a frame rate the audio is cut in proportion.
        lasting = (
            samples_lasting(len(frames), chain.fps, rate)
            if chain.fps
            else round(len(audio) * len(frames) / len(video.frames))
        )
        audio = audio[-lasting:].copy()
    return AudioVideo(frames, audio, video.sample_rate)


def _continued(before: Any, carry: AudioVideo, chain: Chain) -> Any:
    """Returns the value of the segment argument: an image, a list of images, or a list of
    references with one more of its family."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in carry.frames]
    last_frame = chain.continuity == "last_frame"
    if not isinstance(before, list):
        return images[-1] if last_frame else images
    relative = _class_of_kind(before, "image" if last_frame else "video", chain)
    if relative is None and not last_frame:
        raise StepError(
            f"'{chain.segment_argument}' has no reference that tells what a segment becomes.",
            hint="Give its list a first reference.",
        )
    if relative is None:
        return [*before, images[-1]]
    if last_frame:
        return [*before, relative(image=images[-1])]
    audio: dict[str, Any] = {}
    if carry.audio is not None:
        import torch

        samples = torch.from_numpy(carry.audio.T.copy())
        audio = {"audio": samples, "sample_rate": carry.sample_rate}
    pace = {} if chain.fps is None else {"fps": chain.fps}
    return [*before, relative(frames=carry.frames, **pace, **audio)]


def _class_of_kind(references: Sequence[Any], kind: str, chain: Chain) -> Any:
    """Returns the class of this kind in the references' own module; None if they are of no family
    (images, say)."""
    member = next((each for each in references if _kind(each)), None)
    if member is None:
        return None
    family = vars(sys.modules[type(member).__module__]).values()
    for found in family:
        if isinstance(found, type) and found.__dict__.get("kind") == kind:
            return found
    raise StepError(
        f"There is no {kind} beside {type(member).__name__} that '{chain.segment_argument}' could"
        " be handed."
    )


def _kind(reference: Any) -> str:
    """Returns `image`, `video` or `audio` for a reference object, else ""."""
    found = getattr(type(reference), "kind", "")
    return found if isinstance(found, str) else ""


# --- joining -------------------------------------------------------------------------------------


class _Video:
    """The video made so far."""

    def __init__(
        self, chain: Chain, step: PipelineStep, writer: ResultWriter, iteration: int
    ) -> None:
        self._chain = chain
        self._step = step
        self._writer = writer
        self._iteration = iteration
        self._frames: list[Array] = []
        self._files: list[tuple[Path, int]] = []
        self._length = 0
        self._size: tuple[int, ...] | None = None
        self._audio: Audio | None = None

    def add(self, segment: AudioVideo) -> None:
        trim = self._chain.trim_frames if self._size is not None else 0
        frames = segment.frames
        if len(frames) <= trim:
            raise StepError(
                f"A segment of step '{self._step.name}' has {len(frames)} frames, of which {trim}"
                " are trimmed."
            )
        if self._size not in (None, frames.shape[1:]):
            raise StepError(f"The segments of step '{self._step.name}' are of different sizes.")
        own = self._join_audio(segment, trim)
        self._size = frames.shape[1:]
        kept = frames[trim:]
        if self._chain.save_segments:
            fps = self._chain.fps or 0
            path = self._writer.save_segment(
                self._step, self._iteration, len(self._files), kept, fps, own,
                keep=self._chain.keep_segments,
            )  # fmt: skip
            self._files.append((path, len(kept)))
        else:
            self._frames.append(kept)
        self._length += len(kept)

    def _join_audio(self, segment: AudioVideo, trim: int) -> Audio | None:
        """Appends the segment's audio, cut to its frames; returns the part added."""
        if segment.audio is None or segment.sample_rate is None:
            if self._audio is not None:
                raise StepError(f"A segment of step '{self._step.name}' has no sound.")
            return None
        rate, samples = segment.sample_rate, as_audio(segment)
        if self._size is not None and self._audio is None:
            raise StepError(f"The first segment of step '{self._step.name}' has no sound.")
        fps = self._chain.fps
        if fps is None and trim:
            raise StepError(
                f"The frame rate of step '{self._step.name}' is unknown: its sound cannot be cut.",
                hint="Set 'fps' in its chain.",
            )
        if fps is not None:
            length = samples_lasting(len(segment.frames), fps, rate)
            samples = padded(samples, length)[:length]
        if self._audio is None:
            self._audio = Audio(samples, rate)
            return self._audio
        if self._audio.rate != rate:
            raise StepError(
                f"Sounds of different sample rates ({self._audio.rate} Hz, {rate} Hz) cannot be"
                " joined."
            )
        trimmed = samples_lasting(trim, fps, rate) if fps is not None else 0
        before = self._audio.samples
        window = crossfade_window(self._chain.crossfade_ms, rate, trimmed, len(before))
        joined = join(before, samples[:trimmed], samples[trimmed:], window, rate)
        if fps is not None:
            # Rounding errors of segments must not add up.
            length = samples_lasting(self._length + len(segment.frames) - trim, fps, rate)
            joined = padded(joined, length)[:length]
        self._audio = Audio(joined, rate)
        return Audio(samples[trimmed:], rate)

    def finished(self, length: int | None = None, audio: Audio | None = None) -> AudioVideo:
        """Returns the whole video, of at most `length` frames, with `audio` instead of its own."""
        import numpy as np

        frames: Any
        if self._files:
            frames = VideoFileFrames(self._files, length)
        else:
            frames = np.concatenate(self._frames)[:length]
        track = audio or self._audio
        if track is None:
            return AudioVideo(frames, None, None)
        samples = track.samples
        if audio is not None and self._chain.fps is not None:
            ends = samples_lasting(len(frames), self._chain.fps, audio.rate)
            samples = padded(samples, ends)[:ends]
        return AudioVideo(frames, samples, track.rate)
