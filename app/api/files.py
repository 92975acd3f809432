"""Answers with a file's bytes."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse, Response

TEXTS = {".txt": "text/plain; charset=utf-8", ".json": "application/json"}
MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".jfif": "image/jpeg",
    ".webp": "image/webp", ".gif": "image/gif", ".avif": "image/avif", ".bmp": "image/bmp",
    ".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime",
    ".mkv": "video/x-matroska", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac",
    ".ogg": "audio/ogg", ".m4a": "audio/mp4", ".aac": "audio/aac", ".opus": "audio/ogg",
    **TEXTS,
}  # fmt: skip
"""Types that a browser displays. It downloads everything else: HTML, SVG and XML may hold
scripts."""


def file_answer(file: Path) -> Response:
    """Returns the file as an answer, with support for ranges."""
    shown = MEDIA_TYPES.get(file.suffix.lower())
    return FileResponse(
        file,
        media_type=shown or "application/octet-stream",
        filename=file.name,
        content_disposition_type="inline" if shown else "attachment",
    )
