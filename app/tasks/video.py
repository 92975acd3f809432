"""Frames of videos, concatenation, and pairing with audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field

from app.errors import StepError
from app.tasks.audio import FramesPerSecond, Milliseconds, Rate, join, padded, samples_lasting
from app.tasks.media import AudioVideo, as_audio, as_frames
from app.tasks.task import Arguments, AudioInput, Task, VideoInput

if TYPE_CHECKING:
    from app.tasks.media import Array


class VideoArguments(Arguments):
    video: VideoInput


class Frame(VideoArguments):
    frame_index: int = 0
    """From 0; negative values count from the end."""


class Pair(VideoArguments):
    audio: AudioInput
    sample_rate: Rate | None = None
    """Overrides the audio's own."""


class Concat(Arguments):
    videos: Annotated[list[VideoInput], Field(min_length=1)]
    trim_frames: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Dropped from the start of every video after the first."""
    crossfade_ms: Milliseconds = 75
    """Crossfade of the audio, at most as long as the trimmed frames."""
    fps: FramesPerSecond | None = None
    """Needed for the audio length of trimmed or silent frames."""


def get_frame(arguments: Frame) -> Image.Image:
    """Returns one frame as an image. Raises StepError outside the video."""
    frames = as_frames(arguments.video)
    if not -len(frames) <= arguments.frame_index < len(frames):
        raise StepError(
            f"The video has {len(frames)} frames, and none has the index {arguments.frame_index}."
        )
    return Image.fromarray(frames[arguments.frame_index])


def get_first_frame(arguments: VideoArguments) -> Image.Image:
    return get_frame(Frame(video=arguments.video))


def get_last_frame(arguments: VideoArguments) -> Image.Image:
    return get_frame(Frame(video=arguments.video, frame_index=-1))


def video_frames(arguments: VideoArguments) -> Array:
    """Returns all frames as one array (frames, height, width, 3) of 0..255."""
    return as_frames(arguments.video)


def pair_audio(arguments: Pair) -> AudioVideo:
    """Returns the frames with this audio. Raises StepError if its sample rate is unknown."""
    frames, audio = arguments.video, arguments.audio
    rate = arguments.sample_rate or getattr(audio, "sample_rate", None)
    if rate is None:
        raise StepError("The sound has no sample rate.", hint="Set 'sample_rate'.")
    bare = frames.frames if isinstance(frames, AudioVideo) else frames
    return AudioVideo(bare, as_audio(audio), rate)


def concat_videos(arguments: Concat) -> AudioVideo:
    """Returns the videos joined, with equal-power crossfades of their audio.

    Silent videos among others get silence. Raises StepError if sizes or sample rates differ, or if
    `fps` is needed but missing.
    """
    import numpy as np

    videos, trim = arguments.videos, arguments.trim_frames
    clips = [as_frames(video) for video in videos]
    sizes = [f"{clip.shape[2]}x{clip.shape[1]}" for clip in clips]
    if len(set(sizes)) > 1:
        raise StepError(f"Videos of different sizes ({', '.join(sizes)}) cannot be joined.")
    if any(len(clip) <= trim for clip in clips[1:]):
        raise StepError(f"A video has no frames left after {trim} are trimmed.")
    frames = np.concatenate([clips[0], *(clip[trim:] for clip in clips[1:])])
    rates = {video.sample_rate for video in videos if _has_audio(video)}
    if not rates:
        return AudioVideo(frames, None, None)
    if len(rates) > 1:
        listed = ", ".join(f"{rate} Hz" for rate in sorted(rates))
        raise StepError(f"Sounds of different sample rates ({listed}) cannot be joined.")
    (rate,) = rates
    if arguments.fps is None and (trim or not all(map(_has_audio, videos))):
        raise StepError("'fps' is needed to keep the sound in step with the frames.")
    return AudioVideo(frames, _joined(arguments, [len(clip) for clip in clips], rate), rate)


def _joined(arguments: Concat, lengths: list[int], rate: int) -> Array:
    """Returns the joined audio of all videos; `lengths` are in frames."""
    import numpy as np

    joined: Any = None
    trimmed = samples_lasting(arguments.trim_frames, arguments.fps, rate) if arguments.fps else 0
    for video, length in zip(arguments.videos, lengths, strict=True):
        audio = as_audio(video) if _has_audio(video) else np.zeros((0, 1), np.float32)
        if arguments.fps is not None:
            audio = padded(audio, samples_lasting(length, arguments.fps, rate))
        if joined is None:
            joined = audio
            continue
        window = min(round(arguments.crossfade_ms / 1000 * rate), trimmed, len(joined))
        joined = join(joined, audio[:trimmed], audio[trimmed:], window, rate)
    return joined  # type: ignore[no-any-return]


def _has_audio(video: Any) -> bool:
    return isinstance(video, AudioVideo) and video.audio is not None


FRAME = Task(Frame, get_frame, gives="image")
FIRST_FRAME = Task(VideoArguments, get_first_frame, gives="image")
LAST_FRAME = Task(VideoArguments, get_last_frame, gives="image")
FRAMES = Task(VideoArguments, video_frames, gives="video")
PAIR = Task(Pair, pair_audio, gives="video")
CONCAT = Task(Concat, concat_videos, gives="video")
