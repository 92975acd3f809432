"""The history's SQLite file: schema, opening, and putting a damaged one aside."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from app.errors import EngineError

VERSION = 1
BUSY_S = 10.0
"""How long a write waits for another process, for example a `run` beside a server."""
UNFINISHED = ("queued", "preparing", "ready", "running")
SCHEMA = f"""
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    workflow TEXT NOT NULL,
    workflow_path TEXT NOT NULL,
    workflow_hash TEXT NOT NULL,
    title TEXT NOT NULL,
    inputs TEXT NOT NULL,
    changes TEXT NOT NULL,
    seed TEXT NOT NULL,
    seed_given INTEGER NOT NULL,
    takes_seed INTEGER NOT NULL,
    fresh INTEGER NOT NULL,
    process TEXT NOT NULL,
    resumable INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    submitted_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    terminal TEXT,
    plan TEXT
) STRICT;
CREATE INDEX runs_by_owner ON runs (owner, number);
CREATE INDEX runs_unfinished ON runs (number) WHERE state IN {UNFINISHED};
CREATE TABLE results (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    saved TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (run_id, place)
) STRICT;
CREATE VIRTUAL TABLE prompts USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');
"""


class StoreError(EngineError):
    """Raised if the history cannot be read or written."""


def connect(file: str) -> sqlite3.Connection:
    # Used by the writing thread, and by readers in turn.
    db = sqlite3.connect(file, timeout=BUSY_S, check_same_thread=False)
    db.execute("PRAGMA foreign_keys = ON")
    return db


def has_schema(db: sqlite3.Connection) -> bool:
    """Returns False while the database is being created."""
    return bool(db.execute("PRAGMA user_version").fetchone()[0])


def opened(file: Path) -> sqlite3.Connection:
    """Opens the database with the current schema. Raises sqlite3.DatabaseError."""
    db = connect(str(file))
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                for statement in filter(str.strip, SCHEMA.split(";\n")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
        if version > VERSION:
            raise StoreError(
                f"The history '{file}' is of a newer version of this program.",
                hint="Use that version, or choose another folder with --output.",
            )
        db.execute("SELECT count(*) FROM runs WHERE state = 'running'").fetchone()
        return db
    except BaseException:
        db.close()
        raise


def put_aside(file: Path) -> Path:
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("", "-wal", "-shm"):
        part = file.with_name(file.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
