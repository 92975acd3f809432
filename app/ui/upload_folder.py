"""Bounds the requests that bring uploads to the page.

Gradio accepts 1,000 files per request, has no total, and leaves the files of an upload that breaks
off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from gradio import route_utils, routes
from gradio.route_utils import GradioMultiPartParser, MultiPartException
from starlette.requests import ClientDisconnect

from app.api.upload_folder import UploadFolder
from app.units import size

MAX_FILES = 16
"""In one request; the page and gradio_client send one."""
MAX_FIELD_BYTES = 100_000


def bound_uploads(uploads: UploadFolder) -> None:
    """Makes Gradio accept few files per request, no more than there is room for, and leave no file
    of a request that breaks off."""

    class BoundedParser(GradioMultiPartParser):
        def __init__(self, headers: Any, stream: Any, **options: Any) -> None:
            options["max_files"] = min(options.get("max_files", MAX_FILES), MAX_FILES)
            # Otherwise those that are read into memory lie in the folder for temporary files.
            options["upload_dir"] = uploads.folder
            super().__init__(headers, _counted(stream, uploads), **options)

        def on_part_data(self, data: bytes, start: int, end: int) -> None:
            # Fields that are not files are kept in memory.
            part = self._current_part
            if part.file is None and len(part.data) + end - start > MAX_FIELD_BYTES:
                raise MultiPartException(
                    f"Field size exceeded maximum allowed size of {MAX_FIELD_BYTES} bytes."
                )
            super().on_part_data(data, start, end)

        async def parse(self) -> Any:
            try:
                return await super().parse()
            except BaseException:
                for file in self._files_to_close_on_error:
                    _forget(file)
                if self.upload_progress is not None and self.upload_id is not None:
                    self.upload_progress.set_done(self.upload_id)
                raise

    route_utils.GradioMultiPartParser = BoundedParser
    routes.GradioMultiPartParser = BoundedParser


def _forget(file: Any) -> None:
    file.close()
    Path(file.name).unlink(missing_ok=True)


async def _counted(
    stream: AsyncGenerator[bytes, None], uploads: UploadFolder
) -> AsyncGenerator[bytes, None]:
    async for chunk in _until_broken_off(stream):
        if not uploads.take(len(chunk)):
            await asyncio.to_thread(uploads.trim)
            if not uploads.take(len(chunk)):
                # Gradio answers 413 where "maximum allowed size" is in the sentence.
                raise MultiPartException(
                    "There is no room for this file: the uploads of all people together have"
                    f" reached their maximum allowed size of {size(uploads.max_bytes)}."
                    " Try again in an hour."
                )
        yield chunk


async def _until_broken_off(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in stream:
            yield chunk
    except ClientDisconnect:
        raise MultiPartException("The upload broke off.") from None
