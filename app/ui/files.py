"""The files this page takes and hands out: its uploads and its results, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from starlette.responses import FileResponse, Response

from app.outputs import RUN_ID

NOT_OURS = "This file is neither an upload nor a result of this page."
TEXTS = {".txt": "text/plain; charset=utf-8", ".json": "application/json"}
MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".jfif": "image/jpeg",
    ".webp": "image/webp", ".gif": "image/gif", ".avif": "image/avif", ".bmp": "image/bmp",
    ".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime",
    ".mkv": "video/x-matroska", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac",
    ".ogg": "audio/ogg", ".m4a": "audio/mp4", ".aac": "audio/aac", ".opus": "audio/ogg",
    **TEXTS,
}  # fmt: skip
"""What a browser shows. Everything else it saves: HTML, SVG and XML may hold scripts."""


@dataclass(frozen=True)
class OwnFiles:
    """Which paths are files of this page. Asking touches no file outside its two folders."""

    uploads: Path
    outputs: Path
    """Both absolute, without links."""

    def has(self, path: str | Path) -> bool:
        """Returns whether this is an upload or a result, there or not."""
        return self._resolved(path) is not None

    def is_result(self, path: str | Path) -> bool:
        """Returns whether this is a result or its record, there or not."""
        found = self._resolved(path)
        return found is not None and found.is_relative_to(self.outputs)

    def find(self, path: str | Path) -> Path | None:
        """The file to hand out; None where it is none of the page's or not there."""
        found = self._resolved(path)
        try:
            return found if found is not None and found.is_file() else None
        except OSError:  # a name longer than any file has, a disk that is gone
            return None

    def _resolved(self, path: str | Path) -> Path | None:
        if "\0" in str(path):
            return None
        named = Path(path)
        # Looked at as it is written first: links are followed only inside.
        if not (named.is_absolute() and ".." not in named.parts and self._is_own(named)):
            return None
        try:
            found = named.resolve()
        except (OSError, RuntimeError):  # a loop of links, a name too long
            return None
        return found if self._is_own(found) else None

    def _is_own(self, path: Path) -> bool:
        if path.is_relative_to(self.uploads):
            return path != self.uploads
        if not path.is_relative_to(self.outputs):
            return False
        # Beside the folders of runs lie memories, which are nobody's to read.
        match path.relative_to(self.outputs).parts:
            case (run, name):
                return RUN_ID.fullmatch(run) is not None and not name.startswith(".")
        return False


def serve(files: OwnFiles, path: str) -> Response:
    """The file as an answer, in ranges where they are asked for; 404 for every other path."""
    found = files.find(path)
    if found is None:
        raise fastapi.HTTPException(404, "There is no such file.")
    shown = MEDIA_TYPES.get(found.suffix.lower())
    return FileResponse(
        found,
        media_type=shown or "application/octet-stream",
        filename=found.name,
        content_disposition_type="inline" if shown else "attachment",
    )


def keep_to(files: OwnFiles) -> None:
    """Has Gradio (6.31) take and hand out these files alone.

    By itself it copies whatever lies in the working directory or the temporary folder into its
    cache and serves it from there. All its ways to a file go through what is replaced here.
    """
    from gradio import processing_utils, routes, utils

    def check_allowed(path: str | Path, check_in_upload_folder: bool) -> None:
        if not files.has(path):
            raise gr.Error(NOT_OURS, print_exception=False)

    def is_static(file: Any) -> bool:
        path = getattr(file, "path", file)
        return isinstance(path, str | Path) and files.is_result(path)

    def check_all(data: Any) -> None:
        for path in _paths_in(data):
            check_allowed(path, True)

    def fetch(path: str, *_: Any) -> Response:
        return serve(files, path)

    async def no_stream(*_: Any) -> Response:
        raise fastapi.HTTPException(404, "There is no such file.")

    processing_utils._check_allowed = check_allowed
    processing_utils.check_all_files_in_cache = check_all
    utils.is_static_file = is_static
    routes.file_fetch = fetch
    routes.secure_url_stream_response = no_stream


def _paths_in(data: Any) -> list[str]:
    """The paths of everything that looks like a file of Gradio's."""
    if isinstance(data, Mapping):
        path = data.get("path")
        own = [path] if isinstance(path, str) and path else []
        return own + [found for value in data.values() for found in _paths_in(value)]
    if isinstance(data, list | tuple):
        return [found for value in data for found in _paths_in(value)]
    return []


def plain(value: Any) -> Any:
    """The value with every file of Gradio's that somebody else has put together as mere data: what
    says that it is one is left out."""
    if isinstance(value, Mapping):
        is_file = "path" in value and isinstance(value.get("meta"), Mapping)
        return {
            name: plain(each) for name, each in value.items() if not (is_file and name == "meta")
        }
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
