"""`python -m app runs`: lists the runs of a folder of results, with or without a server."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from app.engine.listing import listed
from app.engine.run import RunInfo
from app.engine.store import Store


def list_runs(outputs: Path, *, words: str, limit: int, as_json: bool) -> None:
    """Prints the newest runs whose texts have all of these words."""
    store = Store(outputs.resolve(), as_keeper=False)
    with contextlib.closing(store):
        runs = listed(store, {}, words=words, limit=limit)
        found = [_told(run, store) for run in runs]
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for run in found:
        when = datetime.fromtimestamp(run["submitted_at"])
        print(f"{run['id']}  {run['state']:9}  {when:%Y-%m-%d %H:%M}  {run['workflow']}")
        for result in run["results"]:
            print(f"    {result}")


def _told(run: RunInfo, store: Store) -> dict[str, Any]:
    stored = store.find(run.run_id)
    return {
        "id": run.run_id,
        "state": run.state,
        "workflow": run.workflow,
        "inputs": stored.inputs if stored is not None else {},
        "seed": run.seed,
        "submitted_at": run.submitted_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "results": [result.path for result in store.results(run.run_id)],
    }
