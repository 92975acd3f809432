"""Which files are media, and whether one is what its name says.

Pillow and FFmpeg choose a format by content and know formats that run other programs or read other
files (EPS, HLS). So each is only ever asked for the formats of this list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

MediaKind = Literal["image", "video", "audio"]

IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
"""As Pillow calls them; what it opens as JPEG may turn out to be the MPO of some cameras."""
IMAGE_SUFFIXES = {
    "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp",
}  # fmt: skip
CONTAINERS = {
    ".mp4": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi",
    ".wav": "wav", ".mp3": "mp3", ".flac": "flac", ".ogg": "ogg",
}  # fmt: skip
"""FFmpeg's name for the format of each suffix."""
SUFFIXES: dict[MediaKind, tuple[str, ...]] = {
    "image": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"),
    "video": (".avi", ".mkv", ".mov", ".mp4", ".webm"),
    "audio": (".flac", ".mp3", ".ogg", ".wav"),
}
ACCEPTED: dict[MediaKind, tuple[str, ...]] = {
    **SUFFIXES, "audio": SUFFIXES["audio"] + SUFFIXES["video"],
}  # fmt: skip
"""The sound of a video is one, too."""
CALLED: dict[MediaKind, str] = {"image": "picture", "video": "video", "audio": "sound"}
"""What each kind is called in sentences."""
MAX_IMAGE_PIXELS = 64_000_000


class WrongMediaError(ValueError):
    """The file is not what it should be; the text is a sentence without any path."""


def suffix_of(file: Path, kind: MediaKind, name: str = "") -> str:
    """The suffix that fits the content. Raises WrongMediaError, also for what is too large.

    `name` is what the file is called in the sentence, and for a video or a sound says by its
    suffix what the content has to be.
    """
    name = name or file.name
    if kind == "image":
        return _picture_suffix(file, name)
    suffix = Path(name).suffix.lower()
    for each in (suffix,) if suffix in CONTAINERS else SUFFIXES[kind]:
        if _holds(file, kind, CONTAINERS[each]):
            return each
    raise WrongMediaError(f"'{name}' cannot be read as a {CALLED[kind]}.")


def _picture_suffix(file: Path, name: str) -> str:
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as picture:
            if picture.width * picture.height > MAX_IMAGE_PIXELS:
                raise WrongMediaError(
                    f"'{name}' has {picture.width}x{picture.height} pixels; 64 million fit."
                )
            found = IMAGE_SUFFIXES[picture.format or ""]
            picture.verify()
            return found
    except UnidentifiedImageError:
        # Its own words only name the whole path, on a machine that may not be the reader's.
        raise WrongMediaError(
            f"'{name}' cannot be read as a picture: its content is of no known kind."
        ) from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise WrongMediaError(f"'{name}' cannot be read as a picture ({error}).") from None


def _holds(file: Path, kind: MediaKind, container: str) -> bool:
    """Whether FFmpeg finds such a stream, and anything in it, where it takes the file for this."""
    import av

    try:
        with av.open(str(file), format=container) as opened:
            streams = opened.streams.video if kind == "video" else opened.streams.audio
            # Of some formats the header alone is believed whatever follows.
            return bool(streams) and next(opened.decode(streams[0]), None) is not None
    except (av.FFmpegError, OSError):
        return False
