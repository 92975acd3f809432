"""The kinds of results, and their writers."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from app.dialect.one_of import OneOf
from app.media.audio_files import AUDIO_FILES


class ResultKind(NamedTuple):
    """How results of one content type are written."""

    suffix: str
    save: str
    """The worker's function that writes a file; see `app.worker.results.Save`."""


IN_WORKER = "app.worker.results"
RESULT_KINDS: dict[str, ResultKind] = {
    "image/png": ResultKind(".png", f"{IN_WORKER}.image:save_png"),
    "image/jpeg": ResultKind(".jpg", f"{IN_WORKER}.image:save_jpeg"),
    "image/webp": ResultKind(".webp", f"{IN_WORKER}.image:save_webp"),
    "image/gif": ResultKind(".gif", f"{IN_WORKER}.video:save_gif"),
    "image/bmp": ResultKind(".bmp", f"{IN_WORKER}.image:save_bmp"),
    "image/tiff": ResultKind(".tiff", f"{IN_WORKER}.image:save_tiff"),
    "video/mp4": ResultKind(".mp4", f"{IN_WORKER}.video:save_video"),
    "video/webm": ResultKind(".webm", f"{IN_WORKER}.video:save_video"),
    "video/quicktime": ResultKind(".mov", f"{IN_WORKER}.video:save_video"),
    "video/x-matroska": ResultKind(".mkv", f"{IN_WORKER}.video:save_video"),
    "video/x-msvideo": ResultKind(".avi", f"{IN_WORKER}.video:save_video"),
    **{
        name: ResultKind(file.suffix, f"{IN_WORKER}.audio:save_audio")
        for name, file in AUDIO_FILES.items()
    },
    "text/plain": ResultKind(".txt", f"{IN_WORKER}.text:save_text"),
    "text/markdown": ResultKind(".md", f"{IN_WORKER}.text:save_text"),
    "text/html": ResultKind(".html", f"{IN_WORKER}.text:save_text"),
    "text/csv": ResultKind(".csv", f"{IN_WORKER}.text:save_text"),
    "text/json": ResultKind(".json", f"{IN_WORKER}.text:save_json"),
    "application/json": ResultKind(".json", f"{IN_WORKER}.text:save_json"),
}
"""By content type."""
ContentType = Annotated[str, OneOf(RESULT_KINDS)]
