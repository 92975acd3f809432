"""Adds results older than the history to it, from the records beside them."""

from __future__ import annotations

import contextlib
import json
import logging
import mimetypes
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from app.engine.store import Store
from app.engine.store_rows import StoredRun
from app.outputs import OutputStore, Record, sidecar_of
from app.protocol import ResultSaved, RunSucceeded, Timings

log = logging.getLogger(__name__)


BATCH = 100
"""Runs per transaction."""


def add_past_runs(outputs: OutputStore, store: Store, closing: threading.Event) -> list[str]:
    """Adds every run that has a folder and is not in the history, newest first, until `closing`;
    returns their ids."""
    folders = outputs.runs()
    # Read after the folders: a run's row is written before its folder is made.
    store.flush()
    known = store.run_ids()
    missing = [run_id for run_id in folders if run_id not in known]
    taken: list[str] = []
    for start in range(0, len(missing), BATCH):
        found = []
        for run_id in missing[start : start + BATCH]:
            if closing.is_set():
                return taken
            with contextlib.suppress(OSError):  # (removed meanwhile)
                past = _past(outputs.run_folder(run_id))
                if past is not None:
                    found.append(past)
        store.add_past(found[::-1]).result()
        taken += [run.run_id for run, _ in found]
    if taken:
        log.info("Took %d earlier runs to the history", len(taken))
    return taken


def _past(folder: Path) -> tuple[StoredRun, list[ResultSaved]] | None:
    """Returns the run of this folder, from its records; None if it has none."""
    records = list(_records(folder))
    if not records:
        return None
    results = [_result(path, record) for path, record in records]
    record = records[0][1]
    workflow = record.get("workflow")
    title = str(workflow.get("id", "")) if isinstance(workflow, dict) else ""
    made_at = results[-1].time
    inputs, changes = record.get("inputs"), record.get("changes")
    run = StoredRun(
        run_id=folder.name,
        owner="",
        workflow=title or records[0][0].stem,
        workflow_path="",
        workflow_hash=str(record.get("workflow_sha256", "")),
        title=title,
        inputs=inputs if isinstance(inputs, dict) else {},
        changes=changes if isinstance(changes, dict) else {},
        seed=results[0].seed,
        seed_given=True,
        takes_seed=True,
        fresh=False,
        process="",
        resumable=False,
        submitted_at=results[0].time,
        state="succeeded",
        started_at=results[0].time,
        ended_at=made_at,
        terminal=RunSucceeded(
            run_id=folder.name, time=made_at, timings=Timings(total_s=0.0), loaded=()
        ),
    )
    return run, results


def _records(folder: Path) -> Iterator[tuple[Path, Record]]:
    """Yields the results in this folder with their records, in the order they were made."""
    read: list[tuple[Path, Record]] = []
    for sidecar in sorted(folder.glob("*.json")):
        result = sidecar.with_suffix("")
        try:
            record = json.loads(sidecar.read_bytes())
        except (OSError, ValueError):
            continue
        is_record = isinstance(record, dict) and record.get("run_id") == folder.name
        if is_record and sidecar_of(result) == sidecar and result.is_file():
            read.append((result, record))
    yield from sorted(read, key=lambda each: each[0].stat().st_mtime_ns)


def _result(path: Path, record: Record) -> ResultSaved:
    return ResultSaved(
        run_id=path.parent.name,
        time=_created(path, record),
        step=str(record.get("step", "")),
        path=str(path),
        sidecar=str(sidecar_of(path)),
        content_type=mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        seed=_whole(record.get("seed")),
        index=_whole(record.get("index")),
        final=True,
    )


def _created(path: Path, record: Record) -> float:
    try:
        return datetime.strptime(str(record.get("created")), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return path.stat().st_mtime


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
