"""The list of runs that every face shows: the page, `/status` and `python -m app runs`."""

from __future__ import annotations

from collections.abc import Mapping

from app.engine.run import Run, RunInfo
from app.engine.store import Store
from app.engine.store_rows import StoredRun


def listed(
    store: Store,
    live: Mapping[str, Run],
    *,
    owner: str | None = None,
    words: str = "",
    limit: int | None = None,
    before: str | None = None,
) -> list[RunInfo]:
    """Returns the runs of the history, newest first; those that are `live` as they are now.

    `owner` has one owner's alone, `words` those whose texts have all of them; `before` is the last
    id of the page before. Reads the disk. A run whose row could not be written is not listed.
    """
    found = store.runs(owner=owner, words=words, limit=limit, before=before)
    return [
        live[stored.run_id].info() if stored.run_id in live else info_of(stored) for stored in found
    ]


def info_of(stored: StoredRun) -> RunInfo:
    """Returns a run of the history as lists show it."""
    return RunInfo(
        run_id=stored.run_id,
        workflow=stored.workflow,
        title=stored.title,
        state=stored.state,
        phase="queued",
        seed=stored.seed,
        takes_seed=stored.takes_seed,
        submitted_at=stored.submitted_at,
        started_at=stored.started_at,
        ended_at=stored.ended_at,
    )
