"""Cleans up the outputs folder, on its own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from app.engine.kept_inputs import FOLDER, names_in
from app.engine.past_results import add_past_runs
from app.engine.store import Store
from app.engine.store_file import StoreError
from app.janitor import attempt, clean, trim
from app.outputs import OutputStore
from app.trimming import Needed

log = logging.getLogger(__name__)

FRESH_S = 3600.0
"""Minimum age of an unused upload to be removed: its run may not be in the history yet."""
JOIN_S = 1.0


class Housekeeping:
    """Clean-up of one outputs folder: at the engine's start, and by `trim` later."""

    def __init__(
        self,
        outputs: OutputStore,
        store: Store,
        max_bytes: int | None,
        needed: Callable[[], Needed],
    ) -> None:
        """`needed` returns what waiting and active runs need."""
        self._outputs = outputs
        self._store = store
        self._max_bytes = max_bytes
        self._needed = needed
        self._closing = threading.Event()
        self._trimming = threading.Lock()
        self._thread = threading.Thread(target=self._begin, name="housekeeping", daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        if self._store.is_keeper:
            # First, so that the inputs of these runs are known when unused ones are removed.
            try:
                add_past_runs(self._outputs, self._store, self._closing)
            except (OSError, StoreError) as error:
                log.warning("Earlier results could not be added to the history: %s", error)
        for task in (lambda: clean(self._outputs.root), self.trim):
            if not self._closing.is_set():
                attempt(task)

    def trim(self) -> list[Path]:
        """Removes the oldest runs over the bound, also from the history, and unused uploads;
        returns the removed files and folders.

        An upload belongs to the last run that uses it, and is removed with that run.
        """
        with self._trimming:
            needed = self._needed()
            named = self._last_named()
            inputs_bytes: dict[str, int] = {}
            for name, run_id in named.items():
                inputs_bytes[run_id] = inputs_bytes.get(run_id, 0) + _size(self._inputs / name)
            removed = trim(self._outputs.root, self._max_bytes, needed, inputs_bytes)
            if removed:
                self._store.forget([folder.name for folder in removed]).result()
                named = self._last_named()
            if self._store.is_keeper:
                removed += self._remove_unnamed(named, needed)
            return removed

    def close(self) -> None:
        """Stops the present work at its next step; call before the store is closed."""
        self._closing.set()
        self._thread.join(JOIN_S)

    @property
    def _inputs(self) -> Path:
        return self._outputs.root / FOLDER

    def _last_named(self) -> dict[str, str]:
        """Returns the last run that uses each upload: run ids by file name."""
        mentions = self._store.mentions(f"{FOLDER}/")
        return {name: run_id for run_id, text in mentions for name in names_in(text)}

    def _remove_unnamed(self, named: Collection[str], needed: Needed) -> list[Path]:
        if not self._inputs.is_dir():
            return []
        files = [file for file in self._inputs.iterdir() if names_in(f"{FOLDER}/{file.name}")]
        old = time.time() - FRESH_S
        removed = [
            file
            for file in files
            if file.name not in named and file not in needed.files and file.stat().st_mtime < old
        ]
        for file in removed:
            file.unlink(missing_ok=True)
        return removed


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
