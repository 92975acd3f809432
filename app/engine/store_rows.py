"""A run of the history, and its conversion to and from a database row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, JsonValue, TypeAdapter

from app.protocol import RunCancelled, RunFailed, RunSucceeded, TerminalEvent

StoredState = Literal["queued", "preparing", "ready", "running", "succeeded", "failed", "cancelled"]
STATES: dict[type[TerminalEvent], StoredState] = {
    RunSucceeded: "succeeded",
    RunFailed: "failed",
    RunCancelled: "cancelled",
}
_TERMINAL: TypeAdapter[TerminalEvent] = TypeAdapter(
    Annotated[TerminalEvent, Field(discriminator="type")]
)


@dataclass(frozen=True)
class StoredRun:
    """A run in the history. Times are Unix seconds."""

    run_id: str
    owner: str
    workflow: str
    """Stem of the workflow's file name."""
    workflow_path: str
    workflow_hash: str
    title: str
    inputs: Mapping[str, JsonValue]
    changes: Mapping[str, JsonValue]
    seed: int
    seed_given: bool
    takes_seed: bool
    """False if another seed would change nothing."""
    fresh: bool
    process: str
    """Id and start time of the submitting process."""
    resumable: bool
    """Whether a later server resumes it; a command's runs end with the command."""
    submitted_at: float
    plan: str | None = field(default=None, repr=False)
    """The resolved plan as JSON, while the run is unfinished."""
    state: StoredState = "queued"
    attempts: int = 0
    """Number of starts, without those that an orderly stop of the server ended."""
    started_at: float | None = None
    ended_at: float | None = None
    terminal: TerminalEvent | None = None


COLUMNS = (
    "run_id", "owner", "workflow", "workflow_path", "workflow_hash", "title", "inputs", "changes",
    "seed", "seed_given", "takes_seed", "fresh", "process", "resumable", "submitted_at", "plan",
    "state", "attempts", "started_at", "ended_at", "terminal",
)  # fmt: skip
"""Columns of `runs` that are fields of StoredRun."""
LISTED_COLUMNS = tuple("NULL AS plan" if name == "plan" else name for name in COLUMNS)
"""The same for lists: without the plan, which may be long."""
FLAGS = ("seed_given", "takes_seed", "fresh", "resumable")


def read(row: tuple[Any, ...]) -> StoredRun:
    fields = dict(zip(COLUMNS, row, strict=True))
    assert fields["state"] in get_args(StoredState)
    terminal = fields["terminal"]
    flags = {name: bool(fields[name]) for name in FLAGS}
    read = {name: json.loads(fields[name]) for name in ("inputs", "changes")}
    read["terminal"] = terminal and _TERMINAL.validate_json(terminal)
    return StoredRun(**{**fields, **flags, **read, "seed": int(fields["seed"])})


def insert(db: sqlite3.Connection, run: StoredRun, number: int | None = None) -> None:
    """Inserts the run and its texts; `number` is its position, by default the last."""
    row = {
        "number": number,
        **{name: getattr(run, name) for name in COLUMNS},
        "inputs": json.dumps(dict(run.inputs)),
        "changes": json.dumps(dict(run.changes)),
        # SQLite integers have 64 bits; a seed may have more.
        "seed": str(run.seed),
        "terminal": run.terminal and run.terminal.model_dump_json(),
    }
    names = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    number = db.execute(f"INSERT INTO runs ({names}) VALUES ({places})", row).lastrowid
    texts = "\n".join(text for text in run.inputs.values() if isinstance(text, str))
    db.execute("INSERT INTO prompts (rowid, text) VALUES (?, ?)", (number, texts))
