"""The folder of uploads, bounded in all: files of the page, its paintings, and those of the API."""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from app.errors import BodyTooLarge
from app.trimming import Item, choose_removals, files_of
from app.unfinished import LOCK
from app.units import size

log = logging.getLogger(__name__)

UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)
MAX_NAME = 100
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

    def keep(self, content: bytes, name: str) -> Path:
        """Writes a file into a folder of its own, under a harmless name; returns its path. Raises
        BodyTooLarge where there is no room for it."""
        if not self.take(len(content)):
            self.trim()
            if not self.take(len(content)):
                raise BodyTooLarge(
                    "There is no room for this file: the uploads of all people together have"
                    f" {size(self.max_bytes)}.",
                    hint="Try again in an hour.",
                )
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(parents=True)
        file = folder / (UNSAFE.sub("_", name.rpartition("/")[2])[-MAX_NAME:].lstrip(".") or "file")
        file.write_bytes(content)
        return file

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
