"""Media that a script sends: an upload of Gradio's, or a URL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from app.api import inputs
from app.catalog.catalog import CatalogEntry
from app.dialect.inputs import InputSpec
from app.media.urls import is_url


def pass_urls_on() -> None:
    """Makes Gradio pass on the URL of a file that a script sends instead of fetching it.

    The engine decides whether and how a URL is fetched.
    """
    from gradio import processing_utils

    async def handed_on(url: str, cache_dir: str) -> str:
        return url

    processing_utils.async_ssrf_protected_download = handed_on


def pass_media_on() -> None:
    """Makes Gradio pass on videos and audio unchanged where FFmpeg is installed.

    It would let FFmpeg examine and convert some, in any format FFmpeg detects; a playlist named as
    a video makes that read other files.
    """
    from gradio import processing_utils

    processing_utils.ffmpeg_installed = lambda: False


def unwrapped_urls(variables: Any) -> Any:
    """Returns the variables with plain URLs where `handle_file` of gradio_client has wrapped them
    as files; echoed to the script as a file, a URL would be looked for on this server."""
    if not isinstance(variables, Mapping):
        return variables
    return {
        name: named if is_url(named := _file_data_path(value)) else value
        for name, value in variables.items()
    }


def inputs_of(entry: CatalogEntry, variables: Any, uploads: Path) -> dict[str, JsonValue]:
    """Returns the variables with every uploaded file as its path. Raises InvalidInputs."""
    return inputs.inputs_of(entry, variables, lambda value: _file_or_url(value, uploads), _hint)


def uploaded_path(value: Any, uploads: Path) -> Path | None:
    """Returns the file Gradio stored for an upload; None for anything else, however it is
    wrapped."""
    named = _file_data_path(value)
    if named is None or "\0" in named:
        return None
    path = Path(named).resolve()
    return path if path.is_relative_to(uploads.resolve()) and path.is_file() else None


def _file_or_url(value: Any, uploads: Path) -> str | None:
    if isinstance(value, str) and is_url(value):
        return value
    path = uploaded_path(value, uploads)
    return None if path is None else str(path)


def _file_data_path(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    meta, named = value.get("meta"), value.get("path")
    if not isinstance(meta, Mapping) or meta.get("_type") != "gradio.FileData":
        return None
    return named if isinstance(named, str) else None


def _hint(spec: InputSpec) -> str:
    example = inputs.EXAMPLES[spec.media or "image"]
    return f"Send it with gradio_client.handle_file('{example}')."
