"""Removes what killed processes left behind, in every folder that the workbench writes to."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import threading
from pathlib import Path

from app.outputs import OutputStore, sidecar_of
from app.unfinished import PART, PRIVATE, is_in_use, remove_abandoned

log = logging.getLogger(__name__)

MEMORIES = (".remembered", ".embeddings", ".media", ".previews", ".weights")
"""Folders beside the results in which other parts of the application keep what they know."""


def start_cleaning(outputs: Path) -> threading.Thread:
    """Starts `clean` on a thread of its own: nobody who starts the workbench waits for it."""
    thread = threading.Thread(target=_clean, args=(outputs,), name="janitor", daemon=True)
    thread.start()
    return thread


def _clean(outputs: Path) -> None:
    try:
        removed = clean(outputs)
    except OSError as error:
        log.warning("What killed processes left behind could not be removed: %s", error)
        return
    if removed:
        log.info("Removed %d files and folders that killed processes left behind", len(removed))


def clean(outputs: Path) -> list[Path]:
    """Removes what no living process holds, for these results and this machine; returns what.

    Pictures and other results always stay, with a record or without.
    """
    removed = remove_abandoned(Path(tempfile.gettempdir()), PRIVATE)
    for name in MEMORIES:
        removed += remove_abandoned(outputs / name)
    store = OutputStore(outputs)
    for run_id in store.runs():
        removed += clean_run(store.run_folder(run_id))
    return removed


def clean_run(folder: Path) -> list[Path]:
    """Removes what a killed worker left in a run's folder: unfinished files, and a record whose
    result did not come to be."""
    removed = remove_abandoned(folder)
    if any(is_in_use(part) for part in folder.glob(f"{PART}*")):
        # The run goes on: a result gets its name a moment after its record.
        return removed
    for sidecar in folder.glob("*.json"):
        result = sidecar.with_suffix("")
        if sidecar_of(result) == sidecar and not result.exists() and _is_record(sidecar):
            sidecar.unlink(missing_ok=True)
            removed.append(sidecar)
    with contextlib.suppress(OSError):
        # Only where nothing is left in it.
        folder.rmdir()
    return removed


def _is_record(file: Path) -> bool:
    """Whether this is the record of a result of its run, and not a result that is JSON itself."""
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("run_id") == file.parent.name
