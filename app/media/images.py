"""Opens images: the only module that does, for the page, the planner and the worker.

Pillow knows formats that run other programs or read other files (EPS runs Ghostscript), and a file
of a few kilobytes may declare a billion pixels. So the format is chosen from a list of five by the
first bytes, and the number of pixels is read from the header before anything is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, PngImagePlugin

HEADER_BYTES = 32
SUFFIX_BY_FORMAT = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp"}
"""The accepted formats, by Pillow's names. TIFF is not one: its tiles and codecs are many."""
DECODER_ERRORS = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError,
    MemoryError, struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""Exceptions of Pillow's decoders on broken content."""

INVERSE_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""The inverse of each EXIF orientation. Pillow's own `exif_transpose` also rewrites the other tags,
and fails where a camera has left a broken one."""

# An image of another program may carry more than the 1 MiB that Pillow reads of one text chunk (the
# graph it was made with, say). All texts of one image stay bounded by 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


class WrongMediaError(ValueError):
    """The file is not of the expected kind; the text is a sentence without any path."""


def format_of(head: bytes) -> str | None:
    """Returns the format that the first bytes of a file tell; None for any but the five."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"BM"):
        return "BMP"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return None


def checked(file: Path, max_pixels: int, name: str = "") -> str:
    """Returns the suffix that fits an image's content, without decoding it.

    `name` is the file's name in messages. Raises WrongMediaError.
    """
    with _opened(file, max_pixels, name) as picture:
        # Pillow may identify a JPEG as the MPO of some cameras.
        suffix = SUFFIX_BY_FORMAT.get(picture.format or "", ".jpg")
        picture.verify()
    return suffix


def size_of(file: Path) -> tuple[int, int]:
    """Returns width and height in pixels, from the header alone. Raises WrongMediaError."""
    with _opened(file) as picture:
        return picture.size


def read(file: Path, max_pixels: int) -> Image.Image:
    """Returns the image as RGB, rotated as EXIF says; of an animation the first frame.

    Raises WrongMediaError.
    """
    with _opened(file, max_pixels) as picture:
        turn = INVERSE_ORIENTATIONS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
        turned = picture if turn is None else picture.transpose(turn)
        return _to_eight_bits(turned).convert("RGB")


def on_white(file: Path, max_pixels: int) -> Image.Image | None:
    """Returns a transparent image on white; None where it is opaque.

    Raises WrongMediaError.
    """
    with _opened(file, max_pixels) as picture:
        if not picture.has_transparency_data:
            return None
        shown = picture.convert("RGBA")
        alpha = shown.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return None
        white = Image.new("RGB", shown.size, "white")
        white.paste(shown, mask=alpha)
        return white


def alpha_of(file: Path, max_pixels: int) -> Image.Image:
    """Returns the alpha channel, 0 to 255. Raises WrongMediaError."""
    with _opened(file, max_pixels) as picture:
        if not picture.has_transparency_data:
            return Image.new("L", picture.size, 255)
        return picture.convert("RGBA").getchannel("A")


@contextmanager
def _opened(file: Path, max_pixels: int | None = None, name: str = "") -> Iterator[Image.Image]:
    """Opens the image without decoding it.

    Raises WrongMediaError, also for Pillow's exceptions inside the block: the content is broken
    then.
    """
    name = name or file.name
    try:
        with file.open("rb") as source:
            kind = _checked_kind(source.read(HEADER_BYTES), max_pixels, name)
            source.seek(0)
            with Image.open(source, formats=[kind]) as picture:
                check_pixels(picture.width, picture.height, max_pixels, name)
                yield picture
    except WrongMediaError:
        raise
    except DECODER_ERRORS as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        # The reason may contain a path, on a machine that need not be the reader's.
        told = f" ({why})" if why and "/" not in why else ""
        raise WrongMediaError(f"'{name}' cannot be read as a picture{told}.") from error


def _checked_kind(head: bytes, max_pixels: int | None, name: str) -> str:
    kind = format_of(head)
    if kind is None:
        raise WrongMediaError(
            f"'{name}' cannot be read as a picture: its content is of no known kind"
            " (PNG, JPEG, WebP, GIF and BMP are)."
        )
    told = _header_size(kind, head)
    if told is not None:
        # Pillow allocates two whole frames as soon as it opens a WebP.
        check_pixels(*told, max_pixels, name)
    return kind


def check_pixels(width: int, height: int, max_pixels: int | None, name: str) -> None:
    """Raises WrongMediaError where an image or a frame has more pixels."""
    if max_pixels is not None and width * height > max_pixels:
        raise WrongMediaError(
            f"'{name}' has {width}x{height} pixels; {max_pixels / 1e6:.4g} million fit"
            " (DW_MAX_PICTURE_PIXELS raises that)."
        )


def _header_size(kind: str, head: bytes) -> tuple[int, int] | None:
    """Returns width and height if the first bytes hold them; None for a JPEG."""
    if kind == "JPEG":
        return None
    if kind == "PNG":
        return struct.unpack_from(">II", head, 16)
    if kind == "GIF":
        return struct.unpack_from("<HH", head, 6)
    if kind == "BMP":
        width, height = struct.unpack_from("<ii", head, 18)
        # 12 bytes: the header of OS/2, whose sides have two bytes. Below 0: rows from the top.
        return struct.unpack_from("<HH", head, 18) if head[14] == 12 else (width, abs(height))
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Returns a 16-bit image in 8 bits: Pillow would clip at 255, leaving nearly all white."""
    import numpy as np

    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
