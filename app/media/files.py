"""Media formats, and the check that a file's content is what its name says.

FFmpeg chooses a format by content and knows formats that read other files (HLS). So it is only
asked for the formats of this list; images are opened in `images` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from app.media import images
from app.media.images import WrongMediaError as WrongMediaError
from app.settings import MediaLimits
from app.units import size

MediaKind = Literal["image", "video", "audio"]

CONTAINERS = {
    ".mp4": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi",
    ".wav": "wav", ".mp3": "mp3", ".flac": "flac", ".ogg": "ogg",
}  # fmt: skip
"""FFmpeg's name for the format of each suffix."""
SUFFIXES: dict[MediaKind, tuple[str, ...]] = {
    "image": (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".webp"),
    "video": (".avi", ".mkv", ".mov", ".mp4", ".webm"),
    "audio": (".flac", ".mp3", ".ogg", ".wav"),
}
ACCEPTED: dict[MediaKind, tuple[str, ...]] = {
    **SUFFIXES, "audio": SUFFIXES["audio"] + SUFFIXES["video"],
}  # fmt: skip
"""A video is accepted as audio: its audio track is used."""
KIND_NAMES: dict[MediaKind, str] = {"image": "picture", "video": "video", "audio": "sound"}
"""Name of each kind in messages."""


def suffix_of(file: Path, kind: MediaKind, limits: MediaLimits, name: str = "") -> str:
    """Returns the suffix that fits the content. Raises WrongMediaError, also for too large a file.

    `name` is the file's name in messages; the suffix of a video's or audio's name decides the
    expected format.
    """
    if kind == "image":
        return images.checked(file, limits.max_picture_pixels, name)
    name = name or file.name
    suffix = Path(name).suffix.lower()
    for each in (suffix,) if suffix in CONTAINERS else SUFFIXES[kind]:
        if _holds(file, kind, CONTAINERS[each], limits, name):
            return each
    raise WrongMediaError(f"'{name}' cannot be read as a {KIND_NAMES[kind]}.")


def _holds(file: Path, kind: MediaKind, container: str, limits: MediaLimits, name: str) -> bool:
    """Returns True if FFmpeg reads such a stream, with at least one frame, in this container.

    Raises WrongMediaError for one that is too large.
    """
    import av

    try:
        # Text that is not UTF-8 (a title in Latin-1, say) is no reason to refuse the rest.
        with av.open(str(file), format=container, metadata_errors="replace") as opened:
            streams = opened.streams.video if kind == "video" else opened.streams.audio
            if not streams:
                return False
            check_stream(streams[0], kind, limits, name)
            # For some formats FFmpeg accepts any content after a valid header.
            return next(opened.decode(streams[0]), None) is not None
    except (av.FFmpegError, OSError):
        return False


MAX_CHANNELS = 8
"""Limit for audio: 7.1. PyAV makes arrays of no more, and crashes on a missing plane."""


def check_stream(stream: Any, kind: MediaKind, limits: MediaLimits, name: str) -> None:
    """Raises WrongMediaError where a stream is too large by its header.

    The decoder gets the limit of pixels per frame too: a header need not be true.
    """
    if stream.codec_context is None:
        raise WrongMediaError(f"'{name}' cannot be read: its codec is not known here.")
    seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if not seconds and stream.container.duration:
        seconds = stream.container.duration / 1_000_000
    if kind == "video":
        width, height = stream.codec_context.width, stream.codec_context.height
        images.check_pixels(width, height, limits.max_picture_pixels, name)
        stream.codec_context.options = {"max_pixels": str(limits.max_picture_pixels)}
        # Each thread of the decoder keeps frames of its own.
        stream.thread_type = "SLICE"
        frames = stream.frames or round(seconds * float(stream.average_rate or 0))
        decoded_bytes, what = 3 * width * height * frames, f"{frames} frames of {width}x{height}"
    else:
        check_channels(stream.channels or 0, name)
        decoded_bytes = round(4 * seconds * (stream.rate or 0) * (stream.channels or 0))
        what = f"a sound of {seconds:.0f} s"
    if decoded_bytes > limits.max_decoded_bytes:
        raise WrongMediaError(
            f"'{name}' holds {what}: {size(decoded_bytes)} when it is decoded;"
            f" {size(limits.max_decoded_bytes)} fit (DW_MAX_DECODED_BYTES raises that)."
        )


def check_channels(channels: int, name: str) -> None:
    """Raises WrongMediaError for audio of more channels than can be read."""
    if channels > MAX_CHANNELS:
        raise WrongMediaError(
            f"'{name}' holds a sound of {channels} channels; {MAX_CHANNELS} are the most."
        )
