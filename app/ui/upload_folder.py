"""Bounds uploads and paintings, all together, and the requests that bring them.

Gradio accepts 1,000 files per request, has no total, and leaves the files of an upload that breaks
off.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path
from typing import Any

from gradio import route_utils, routes
from gradio.route_utils import GradioMultiPartParser, MultiPartException
from starlette.requests import ClientDisconnect

from app.trimming import Item, choose_removals, files_of
from app.unfinished import LOCK
from app.units import size

log = logging.getLogger(__name__)

MAX_FILES = 16
"""In one request; the page and gradio_client send one."""
MAX_FIELD_BYTES = 100_000
MAX_KEPT = 10_000
"""Greatest number of kept files."""
SHARE_KEPT = 0.9
"""Share of the bound that is kept when files are removed, so that not every new file removes
one."""
FRESH_S = 3600.0
"""A form may be open for so long before its run is submitted, and a file may take so long."""
STALE_S = 24 * 3600.0


class UploadFolder:
    """The folder; thread-safe. Files of a waiting or current run are never removed."""

    def __init__(
        self, folder: Path, max_bytes: int, needed: Callable[[], Collection[Path]]
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._needed = needed
        self._lock = threading.Lock()
        self._kept_bytes = 0
        """As last counted, plus what has come since."""

    def trim(self) -> list[Path]:
        """Removes and returns the files that are stale or beyond the bound."""
        with self._lock:
            now = time.time()
            items = [each for each in files_of(self.folder) if each.path.name != LOCK]
            leaving = choose_removals(
                items,
                max_bytes=round(SHARE_KEPT * self.max_bytes),
                max_count=MAX_KEPT,
                needed=self._needed(),
                fresh_since=now - FRESH_S,
                stale_before=now - STALE_S,
            )
            for each in leaving:
                _remove(each, self.folder)
            self._kept_bytes = sum(each.size_bytes for each in files_of(self.folder))
        if leaving:
            log.info("Removed %d uploads", len(leaving))
        return [each.path for each in leaving]

    def take(self, more_bytes: int) -> bool:
        """Counts bytes that are about to be written; False where there is no room for them."""
        if self._kept_bytes + more_bytes > self.max_bytes:
            return False
        self._kept_bytes += more_bytes
        return True


def _remove(item: Item, root: Path) -> None:
    item.path.unlink(missing_ok=True)
    parent = item.path.parent
    if parent != root and not any(parent.iterdir()):
        parent.rmdir()


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
