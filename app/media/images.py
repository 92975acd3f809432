"""Opens images: the only module that does, for the page, the planner and the worker.

Pillow knows formats that run other programs or read other files (EPS runs Ghostscript), and a file
of a few kilobytes may declare a billion pixels. So the format is chosen from a short list by the
first bytes, and the number of pixels is read from the header before anything is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageChops, PngImagePlugin

HEADER_BYTES = 32
SUFFIX_BY_FORMAT = {
    "JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp", "AVIF": ".avif",
}  # fmt: skip
"""The accepted formats, by Pillow's names. TIFF is not one: its tiles and codecs are many."""
DECODER_ERRORS = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError,
    RuntimeError, MemoryError, struct.error, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip
"""Exceptions of Pillow's decoders on broken content."""

INVERSE_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""The inverse of each EXIF orientation. Pillow's own `exif_transpose` also rewrites the other tags,
and fails where a camera has left a broken one."""

OPAQUE = 128
"""Pixels of a mask with at least this alpha are part of it."""
ONE_COLOUR = 32
"""Levels that differ by no more than this are one colour."""
BLACK = 64
"""Levels below are black, and those as near to 255 white, in a mask."""
EDGES = 0.2
"""Greatest share of levels between them, in a mask whose edges are soft."""

# An image of another program may carry more than the 1 MiB that Pillow reads of one text chunk (the
# graph it was made with, say). All texts of one image stay bounded by 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


class WrongMediaError(ValueError):
    """The file is not of the expected kind; the text is a sentence without any path."""


def format_of(head: bytes) -> str | None:
    """Returns the format that the first bytes of a file tell; None for any other."""
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
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
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


def read(file: Path, max_pixels: int, background: str = "white") -> Image.Image:
    """Returns the image as RGB, rotated as EXIF says; of an animation the first frame.

    Transparent pixels get the colour of the `background`. Raises WrongMediaError.
    """
    with _opened(file, max_pixels) as picture:
        return opaque(_upright(picture), background)


def opaque(picture: Image.Image, background: str) -> Image.Image:
    """Returns the image as RGB; transparent pixels get the colour of the `background`."""
    return _on_background(picture, background) or _to_eight_bits(picture).convert("RGB")


def on_background(file: Path, max_pixels: int, background: str) -> Image.Image | None:
    """Returns a transparent image on this colour; None where it is opaque.

    Raises WrongMediaError.
    """
    with _opened(file, max_pixels) as picture:
        return _on_background(picture, background)


def read_mask(file: Path, max_pixels: int) -> Image.Image:
    """Returns a mask as RGB, white where the picture is redrawn.

    Transparent pixels are kept. Of a mask of one colour on transparent pixels, its opaque ones are
    redrawn, whatever the colour. Raises WrongMediaError, also for a mask that could mean either of
    two areas.
    """
    with _opened(file, max_pixels) as picture:
        return as_mask(_upright(picture), file.name)


def as_mask(picture: Image.Image, name: str) -> Image.Image:
    """Returns an image as a mask, as `read_mask` does a file; `name` is its name in messages."""
    alpha = _transparency(picture)
    if alpha is None:
        return _to_eight_bits(picture).convert("RGB")
    shown = picture.convert("RGB")
    darkest, lightest = _range_of_colours(shown, alpha)
    if lightest - darkest > ONE_COLOUR:
        if not _is_black_and_white(shown, alpha):
            raise WrongMediaError(
                f"'{name}' is ambiguous as a mask: it has transparent pixels, and a picture in the"
                " others. Save the mask in black and white, white where the picture is redrawn."
            )
        black = Image.new("RGB", shown.size)
        black.paste(shown, mask=alpha)
        return black
    if darkest + lightest < 2 * BLACK:
        raise WrongMediaError(
            f"'{name}' is ambiguous as a mask: it is black on transparent pixels, which could mean"
            " the area to redraw or the one to keep. Save the mask in black and white, white where"
            " the picture is redrawn."
        )
    return alpha.convert("RGB")


def alpha_of(file: Path, max_pixels: int) -> Image.Image:
    """Returns the alpha channel, 0 to 255. Raises WrongMediaError."""
    with _opened(file, max_pixels) as picture:
        if not picture.has_transparency_data:
            return Image.new("L", picture.size, 255)
        return picture.convert("RGBA").getchannel("A")


def _upright(picture: Image.Image) -> Image.Image:
    turn = INVERSE_ORIENTATIONS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def _transparency(picture: Image.Image) -> Image.Image | None:
    """Returns the alpha channel; None where every pixel is opaque."""
    if not picture.has_transparency_data:
        return None
    alpha = picture.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _on_background(picture: Image.Image, background: str) -> Image.Image | None:
    alpha = _transparency(picture)
    if alpha is None:
        return None
    below = Image.new("RGB", picture.size, background)
    below.paste(picture.convert("RGBA"), mask=alpha)
    return below


def _range_of_colours(shown: Image.Image, alpha: Image.Image) -> tuple[int, int]:
    """Returns the darkest and the lightest level of the opaque pixels; the channel that differs
    most counts."""
    opaque = alpha.point(lambda level: 255 if level >= OPAQUE else 0)
    if opaque.getbbox() is None:
        return 255, 255
    histogram = shown.histogram(opaque)
    ranges = []
    for start in (0, 256, 512):
        levels = [level for level in range(256) if histogram[start + level]]
        ranges.append((levels[0], levels[-1]))
    return max(ranges, key=lambda found: found[1] - found[0])


def _is_black_and_white(shown: Image.Image, alpha: Image.Image) -> bool:
    """Returns True where nearly all opaque pixels are black or white; the others are edges."""
    opaque = alpha.point(lambda level: 255 if level >= OPAQUE else 0)
    red, green, blue = shown.split()
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    lightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    white = darkest.point(lambda level: 255 if level >= 256 - BLACK else 0)
    black = lightest.point(lambda level: 255 if level < BLACK else 0)
    count = opaque.histogram()[255] or 1
    plain = ImageChops.multiply(ImageChops.lighter(white, black), opaque).histogram()[255]
    return 1 - plain / count <= EDGES


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
            " (PNG, JPEG, WebP, AVIF, GIF and BMP are)."
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
    """Returns width and height if the first bytes hold them; None for JPEG and AVIF, of which
    nothing is decoded on opening."""
    if kind in ("JPEG", "AVIF"):
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
