"""Disk cache of the results of requests, for identical later requests."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import JsonValue, ValidationError

from app.outputs import replacing
from app.protocol import Message, Noticed, ResultSaved

log = logging.getLogger(__name__)

FOLDER = ".remembered"
MAX_ENTRIES = 2000
TRIM_EVERY = 100
"""Listing so many files takes 20 ms, which delays the next run: not after every run."""


class RequestResults(Message):
    """The results of one request. `made_at` is in Unix seconds."""

    made_at: float
    results: tuple[ResultSaved, ...]
    outputs: tuple[JsonValue, ...]
    notices: tuple[Noticed, ...] = ()


class RequestCache:
    """One small file per request below the outputs folder, named by the request key."""

    def __init__(self, outputs: Path) -> None:
        self._folder = outputs / FOLDER
        self._noted = 0

    def find(self, key: str) -> RequestResults | None:
        """Returns the results of this request, if all files and records are unchanged."""
        try:
            found = RequestResults.model_validate_json(self._file(key).read_bytes())
        except (OSError, ValidationError):
            return None
        return found if all(result.is_as_written for result in found.results) else None

    def note(self, key: str, made: RequestResults) -> None:
        """Stores the results; evicts the oldest over the limit, in batches. Logs a full disk."""
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._file(key)) as file:
                file.write(made.model_dump_json().encode())
            if self._noted % TRIM_EVERY == 0:
                self._trim()
            self._noted += 1
        except OSError as error:
            log.warning("The results of a run could not be cached: %s", error)

    def _trim(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda each: each.stat().st_mtime_ns)
        for old in files[:-MAX_ENTRIES]:
            old.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"
