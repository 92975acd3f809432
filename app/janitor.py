"""Removes leftovers of killed processes, in every folder that the workbench writes to."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from types import MappingProxyType
from typing import Any

from app.errors import EngineError
from app.outputs import OutputStore, sidecar_of
from app.trimming import Item, Needed, choose_removals, files_of
from app.unfinished import PART, PRIVATE, is_in_use, remove_abandoned

log = logging.getLogger(__name__)

NOTHING = Needed()
NEW_FOLDER_S = 60.0
"""Minimum age of an empty run folder to be removed."""
TRIM_EVERY_S = 300.0
CACHE_FOLDERS = (
    ".remembered", ".embeddings", ".media", ".previews", ".weights", ".configs", "inputs",
)  # fmt: skip
"""Caches and other folders beside the results."""


@contextlib.contextmanager
def trimming(*tasks: Callable[[], Sized], every_s: float = TRIM_EVERY_S) -> Iterator[None]:
    """Calls these removal tasks repeatedly on a thread while inside."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(every_s):
            for task in tasks:
                attempt(task)

    thread = threading.Thread(target=work, name="janitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def attempt(task: Callable[..., Sized], *arguments: Any) -> None:
    """Calls a task that removes files, and logs its errors."""
    try:
        removed = task(*arguments)
    except (OSError, EngineError) as error:
        log.warning("Files could not be removed: %s", error)
        return
    if removed:
        log.info("Removed %d unneeded files and folders", len(removed))


def trim(
    outputs: Path,
    max_bytes: int | None,
    needed: Needed = NOTHING,
    inputs_bytes: Mapping[str, int] = MappingProxyType({}),
) -> list[Path]:
    """Removes the oldest runs over the bound; returns their folders, existing or not.

    Keeps needed runs, and those that any process is working on. `inputs_bytes` are further bytes
    that leave with a run, by run id.
    """
    if max_bytes is None:
        return []
    store, removed = OutputStore(outputs), []
    folders = [store.run_folder(run_id) for run_id in sorted({*store.runs(), *inputs_bytes})]
    items = [
        Item(
            folder,
            sum(file.size_bytes for file in files_of(folder)) + inputs_bytes.get(folder.name, 0),
            order,
        )
        for order, folder in enumerate(folders)
    ]
    kept = {store.run_folder(run_id) for run_id in needed.run_ids}
    kept |= {file.parent for file in needed.files}
    busy = {each for each in folders if any(is_in_use(part) for part in each.glob(f"{PART}*"))}
    for item in choose_removals(
        items, max_bytes=max_bytes, needed=kept | busy, fresh_since=float("inf")
    ):
        if item.path.is_dir():
            shutil.rmtree(item.path)
        removed.append(item.path)
    return removed


def clean(outputs: Path) -> list[Path]:
    """Removes files of dead processes, in these outputs and on this machine; returns them.

    Results always stay, with a record or without.
    """
    removed = remove_abandoned(Path(tempfile.gettempdir()), PRIVATE)
    for name in CACHE_FOLDERS:
        removed += remove_abandoned(outputs / name)
    store = OutputStore(outputs)
    for run_id in store.runs():
        removed += clean_run(store.run_folder(run_id))
    return removed


def clean_run(folder: Path) -> list[Path]:
    """Removes leftovers of a killed worker in a run's folder: unfinished files, and records without
    a result."""
    removed = remove_abandoned(folder)
    if any(is_in_use(part) for part in folder.glob(f"{PART}*")):
        # The run is active: a result gets its name a moment after its record.
        return removed
    for sidecar in folder.glob("*.json"):
        result = sidecar.with_suffix("")
        if sidecar_of(result) == sidecar and not result.exists() and _is_record(sidecar):
            sidecar.unlink(missing_ok=True)
            removed.append(sidecar)
    with contextlib.suppress(OSError):
        if time.time() - folder.stat().st_mtime > NEW_FOLDER_S:
            # Succeeds only if it is empty.
            folder.rmdir()
    return removed


def _is_record(file: Path) -> bool:
    """Returns True for the record of a result, False for a result that is JSON itself."""
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("run_id") == file.parent.name
