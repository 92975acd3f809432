"""Writes images, with the full record inside the file where its format allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from app.errors import ResultError
from app.outputs import RECORD_KEY, NewFile, Record, reference_to_sidecar

if TYPE_CHECKING:
    from PIL import Image

    from app.dialect.plan import ResultSpec

MAX_EXIF_BYTES = 65_000
"""A JPEG stores EXIF in one segment of 64 KB, header included."""
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
UNICODE_COMMENT = b"UNICODE\x00"

Size = tuple[int, int]


def save_png(artifact: Any, file: NewFile, record: Record, _spec: ResultSpec) -> Size:
    """Writes a PNG, the record in a text chunk; returns width and height in pixels.

    One-channel measures (depth, say) have 65536 levels.
    """
    from PIL.PngImagePlugin import PngInfo

    image = _image(artifact, deep=True)
    text = PngInfo()
    text.add_itxt(RECORD_KEY, json.dumps(record, ensure_ascii=False))
    # Level 1 is two to three times faster than the default and a few percent larger.
    return _write(image, file, "PNG", pnginfo=text, compress_level=1)


def save_jpeg(artifact: Any, file: NewFile, record: Record, _spec: ResultSpec) -> Size:
    """Writes a JPEG, the record in EXIF's UserComment; returns width and height in pixels."""
    image = _image(artifact).convert("RGB")
    return _write(image, file, "JPEG", quality=95, exif=_exif(record, file.path))


def save_webp(artifact: Any, file: NewFile, record: Record, _spec: ResultSpec) -> Size:
    """Writes a WebP, the record in EXIF's UserComment; returns width and height in pixels."""
    image = _image(artifact)
    return _write(image, file, "WEBP", quality=95, exif=_exif(record, file.path))


def save_bmp(artifact: Any, file: NewFile, _record: Record, _spec: ResultSpec) -> Size:
    """Writes a BMP, which cannot hold the record; returns width and height in pixels."""
    image = _image(artifact).convert("RGB")
    return _write(image, file, "BMP")


def save_tiff(artifact: Any, file: NewFile, _record: Record, _spec: ResultSpec) -> Size:
    """Writes a TIFF without the record, with a PNG's depth; returns width and height in pixels."""
    image = _image(artifact, deep=True)
    return _write(image, file, "TIFF", compression="tiff_adobe_deflate")


def _write(image: Image.Image, file: NewFile, kind: str, **options: Any) -> Size:
    image.save(cast("IO[bytes]", file), kind, **options)
    return image.size


def _exif(record: Record, path: Path) -> Image.Exif:
    from PIL import Image

    comment = _comment(record)
    if len(comment) > MAX_EXIF_BYTES:
        comment = _comment(reference_to_sidecar(path, record))
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return exif


def _comment(record: Record) -> bytes:
    return UNICODE_COMMENT + json.dumps(record, ensure_ascii=False).encode("utf-16-be")


def _image(artifact: Any, *, deep: bool = False) -> Image.Image:
    from app.tasks.media import as_image

    try:
        return as_image(artifact, deep=deep)
    except ValueError as error:
        raise ResultError(
            f"What the step made cannot be saved as a picture: {error}.",
            hint="Leave output_type out, or give the step no result block.",
        ) from error
