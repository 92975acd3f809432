"""Writes images, with the full record inside the file where its format allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import ResultError
from app.outputs import RECORD_KEY, Record, reference_to_sidecar, replacing

if TYPE_CHECKING:
    from PIL import Image

    from app.workflow.plan import ResultSpec

MAX_EXIF_BYTES = 65_000
"""A JPEG stores EXIF in one segment of 64 KB, header included."""
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
UNICODE_COMMENT = b"UNICODE\x00"

Size = tuple[int, int]


def save_png(artifact: Any, path: Path, record: Record, _spec: ResultSpec) -> Size:
    """Writes a PNG, the record in a text chunk; returns width and height in pixels.

    One-channel measures (depth, say) have 65536 levels.
    """
    from PIL.PngImagePlugin import PngInfo

    image = _image(artifact, deep=True)
    text = PngInfo()
    text.add_itxt(RECORD_KEY, json.dumps(record, ensure_ascii=False))
    with replacing(path) as file:
        # Level 1 is two to three times faster than the default and a few percent larger.
        image.save(file, "PNG", pnginfo=text, compress_level=1)
    return image.size


def save_jpeg(artifact: Any, path: Path, record: Record, _spec: ResultSpec) -> Size:
    """Writes a JPEG, the record in EXIF's UserComment; returns width and height in pixels."""
    image = _image(artifact).convert("RGB")
    with replacing(path) as file:
        image.save(file, "JPEG", quality=95, exif=_exif(record, path))
    return image.size


def save_webp(artifact: Any, path: Path, record: Record, _spec: ResultSpec) -> Size:
    """Writes a WebP, the record in EXIF's UserComment; returns width and height in pixels."""
    image = _image(artifact)
    with replacing(path) as file:
        image.save(file, "WEBP", quality=95, exif=_exif(record, path))
    return image.size


def save_bmp(artifact: Any, path: Path, _record: Record, _spec: ResultSpec) -> Size:
    """Writes a BMP, which cannot hold the record; returns width and height in pixels."""
    image = _image(artifact).convert("RGB")
    with replacing(path) as file:
        image.save(file, "BMP")
    return image.size


def save_tiff(artifact: Any, path: Path, _record: Record, _spec: ResultSpec) -> Size:
    """Writes a TIFF without the record, with a PNG's depth; returns width and height in pixels."""
    image = _image(artifact, deep=True)
    with replacing(path) as file:
        image.save(file, "TIFF", compression="tiff_adobe_deflate")
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
