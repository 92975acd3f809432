"""The files that the page accepts and serves: its uploads and its results, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from starlette.responses import Response

from app.api.files import file_answer
from app.outputs import RUN_ID

NOT_OURS = "This file is neither an upload nor a result of this page."


@dataclass(frozen=True)
class OwnFiles:
    """Decides which paths are files of this page. Touches no file outside its two folders."""

    uploads: Path
    outputs: Path
    """Both absolute, without links."""

    def has(self, path: str | Path) -> bool:
        """Returns True for an upload or a result, existing or not."""
        return self._resolved(path) is not None

    def is_result(self, path: str | Path) -> bool:
        """Returns True for a result or its record, existing or not."""
        found = self._resolved(path)
        return found is not None and found.is_relative_to(self.outputs)

    def find(self, path: str | Path) -> Path | None:
        """Returns the file to serve; None for a foreign or missing file."""
        found = self._resolved(path)
        try:
            return found if found is not None and found.is_file() else None
        except OSError:  # a name longer than any file has, a disk that is gone
            return None

    def _resolved(self, path: str | Path) -> Path | None:
        if "\0" in str(path):
            return None
        named = Path(path)
        # The path is checked as written first: links are followed only inside.
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
        # Beside the runs' folders lie caches, which are not served.
        match path.relative_to(self.outputs).parts:
            case (run, name):
                return RUN_ID.fullmatch(run) is not None and not name.startswith(".")
        return False


def serve(files: OwnFiles, path: str) -> Response:
    """Returns the file as an answer, with support for ranges; 404 for every other path."""
    found = files.find(path)
    if found is None:
        raise fastapi.HTTPException(404, "There is no such file.")
    return file_answer(found)


def restrict_to(files: OwnFiles) -> None:
    """Makes Gradio (6.31) accept and serve these files alone.

    By itself it copies any file of the working directory or the temporary folder into its cache and
    serves it from there. All its ways to a file go through the functions replaced here.
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
    """Returns the paths of everything that looks like a Gradio file."""
    if isinstance(data, Mapping):
        path = data.get("path")
        own = [path] if isinstance(path, str) and path else []
        return own + [found for value in data.values() for found in _paths_in(value)]
    if isinstance(data, list | tuple):
        return [found for value in data for found in _paths_in(value)]
    return []


def plain(value: Any) -> Any:
    """Returns the value with Gradio files of foreign origin turned into mere data: the key that
    marks them is removed."""
    if isinstance(value, Mapping):
        is_file = "path" in value and isinstance(value.get("meta"), Mapping)
        return {
            name: plain(each) for name, each in value.items() if not (is_file and name == "meta")
        }
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
