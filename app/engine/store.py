"""The history: what was asked for and what came of it, in SQLite below the folder of results.

A run is committed before its id is returned, so a killed server loses nothing. One thread writes,
in transactions of whatever has gathered; the engine's own thread never waits for the disk. WAL lets
any thread, and any other process, read meanwhile.

Sources: https://sqlite.org/wal.html (a commit with `synchronous=NORMAL` survives a killed process;
a power cut may lose the newest commits, never the database), https://sqlite.org/fts5.html.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

from pydantic import JsonValue

from app.engine.store_file import SCHEMA, UNFINISHED, StoreError, connect, opened, put_aside
from app.protocol import ResultSaved, Timings

log = logging.getLogger(__name__)

FOLDER = ".history"
FILE = "runs.sqlite"
LOCK = "keeper.lock"

StoredState = Literal["queued", "preparing", "ready", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class StoredRun:
    """A run as the history has it. Times are Unix seconds."""

    run_id: str
    owner: str
    workflow: str
    """The stem of the workflow's file."""
    workflow_path: str
    workflow_hash: str
    title: str
    inputs: Mapping[str, JsonValue]
    changes: Mapping[str, JsonValue]
    seed: int
    seed_given: bool
    fresh: bool
    submitted_at: float
    plan: str | None = field(default=None, repr=False)
    """The resolved plan as JSON, while the run is unfinished."""
    state: StoredState = "queued"
    attempts: int = 0
    """How often a worker has begun with it and the server then ended without an orderly stop."""
    started_at: float | None = None
    ended_at: float | None = None
    timings: Timings | None = None
    ending: str = ""
    """Why it failed or was cancelled, in a sentence."""

    @property
    def is_unfinished(self) -> bool:
        """Whether it waits or runs."""
        return self.state in UNFINISHED


Write = Callable[[sqlite3.Connection], None]


class Store:
    """The history of one folder of results. Every method may be called from any thread.

    Only the process that holds the folder's lock is its `is_keeper`: it alone resumes runs and
    cleans up; others add their own runs.
    """

    def __init__(self, outputs: Path, *, keep_history: bool = True) -> None:
        """Opens the history, or makes one. Without `keep_history` it is in memory only.

        A damaged database is put aside, and `notice` says so. Raises StoreError where the folder
        cannot be used.
        """
        self._outputs = outputs
        self._folder = outputs / FOLDER
        self._lock_file: IO[bytes] | None = None
        self.is_keeper = True
        self.notice = ""
        """What people should know about the history itself."""
        self._in_memory = not keep_history
        self._reading = threading.Lock()
        if keep_history:
            self._open_on_disk()
        else:
            self._writer = self._reader = connect(":memory:")
            self._writer.executescript(SCHEMA)
        self._writes: queue.SimpleQueue[tuple[Write, Future[None] | None] | None]
        self._writes = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._thread.start()

    # --- writing ---------------------------------------------------------------------------------

    def add(self, run: StoredRun) -> None:
        """Adds a run and returns when it is committed. Raises StoreError where that fails."""
        self._written(lambda db: _insert(db, run))

    def note_state(self, run_id: str, state: StoredState) -> None:
        """Notes where an unfinished run is."""
        self._post("UPDATE runs SET state = ? WHERE run_id = ?", (state, run_id))

    def note_started(self, run_id: str, started_at: float) -> None:
        """Notes that a worker has begun with the run, which counts as an attempt."""
        self._post(
            "UPDATE runs SET state = 'running', started_at = ?, attempts = attempts + 1"
            " WHERE run_id = ?",
            (started_at, run_id),
        )

    def note_orderly_stop(self, run_ids: Sequence[str]) -> None:
        """Has these unfinished runs wait for the next start; what ran makes no attempt of it."""
        for run_id in run_ids:
            self._post(
                "UPDATE runs SET attempts = max(0, attempts - (state = 'running')),"
                " state = 'queued', started_at = NULL WHERE run_id = ?",
                (run_id,),
            )

    def note_ended(
        self,
        run_id: str,
        state: StoredState,
        ended_at: float,
        *,
        ending: str = "",
        timings: Timings | None = None,
        results: Sequence[ResultSaved] = (),
    ) -> None:
        """Notes how the run ended and what it made."""
        saved = [(run_id, place, *self._row(result)) for place, result in enumerate(results)]

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE runs SET state = ?, ended_at = ?, ending = ?, timings = ?, plan = NULL"
                " WHERE run_id = ?",
                (state, ended_at, ending, timings and timings.model_dump_json(), run_id),
            )
            db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", saved)

        self._writes.put((write, None))

    def forget(self, run_id: str) -> None:
        """Removes a run and its results from the history; its files stay."""

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM prompts WHERE rowid = (SELECT number FROM runs WHERE run_id = ?)",
                (run_id,),
            )
            db.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

        self._writes.put((write, None))

    def flush(self) -> None:
        """Returns when everything noted so far is committed."""
        self._written(lambda db: None)

    def close(self) -> None:
        """Commits what is left and lets go of the folder."""
        self._writes.put(None)
        self._thread.join()
        self._reader.close()
        if self._lock_file is not None:
            self._lock_file.close()

    # --- reading ---------------------------------------------------------------------------------

    def unfinished(self) -> list[StoredRun]:
        """The runs that waited or ran, in the order they were asked for."""
        return self._runs(f"WHERE state IN {UNFINISHED} ORDER BY number", ())

    def find(self, run_id: str) -> StoredRun | None:
        """The run of this id."""
        return next(iter(self._runs("WHERE run_id = ?", (run_id,))), None)

    def runs(
        self,
        *,
        owner: str | None = None,
        words: str = "",
        limit: int | None = None,
        before: str | None = None,
    ) -> list[StoredRun]:
        """The runs, newest first: one owner's, or those whose texts have all of these words.

        `before` is the id of the last run of the page before.
        """
        terms = ['"' + word.replace('"', '""') + '"*' for word in words.split()]
        wheres: dict[str, str] = {}
        if owner is not None:
            wheres["owner = ?"] = owner
        if terms:
            wheres["number IN (SELECT rowid FROM prompts WHERE text MATCH ?)"] = " ".join(terms)
        if before is not None:
            wheres["number < (SELECT number FROM runs WHERE run_id = ?)"] = before
        where = f"WHERE {' AND '.join(wheres)} " if wheres else ""
        last = "ORDER BY number DESC LIMIT ?"
        return self._runs(where + last, (*wheres.values(), -1 if limit is None else limit))

    def results(self, run_id: str) -> list[ResultSaved]:
        """What the run made, in order."""
        rows = self._rows("SELECT saved FROM results WHERE run_id = ? ORDER BY place", (run_id,))
        return [self._result(saved) for (saved,) in rows]

    def count(self) -> int:
        """How many runs there are."""
        return int(self._rows("SELECT count(*) FROM runs", ())[0][0])

    # --- inside ----------------------------------------------------------------------------------

    def _open_on_disk(self) -> None:
        file = self._folder / FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self._folder / LOCK).open("ab")
        except OSError as error:
            raise StoreError(
                f"The history cannot be kept in '{self._folder}': {error.strerror}.",
                hint="Choose another folder with --output, or keep none with --no-history.",
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.is_keeper = False
        try:
            self._writer = self._opened(file)
        except BaseException:
            self._lock_file.close()
            raise
        self._reader = connect(str(file))

    def _opened(self, file: Path) -> sqlite3.Connection:
        """The database, a new one where it was damaged and this process may put it aside."""
        try:
            return opened(file)
        except sqlite3.DatabaseError as error:
            if not self.is_keeper or isinstance(error, sqlite3.OperationalError):
                raise StoreError(
                    f"The history '{file}' cannot be opened: {error}.",
                    hint="Keep none with --no-history, or choose another folder with --output.",
                ) from error
            aside = put_aside(file)
            self.notice = (
                f"The history was damaged ({error}) and begins anew; the old file is {aside.name}."
            )
            log.error("%s", self.notice)
            return opened(file)

    def _write_all(self) -> None:
        while (first := self._writes.get()) is not None:
            batch = [first]
            over = False
            with contextlib.suppress(queue.Empty):
                while not over:
                    following = self._writes.get_nowait()
                    over = following is None
                    if following is not None:
                        batch.append(following)
            self._write_batch(batch)
            if over:
                break
        if self._writer is not self._reader:
            self._writer.close()

    def _write_batch(self, batch: list[tuple[Write, Future[None] | None]]) -> None:
        try:
            with self._writer:
                for write, _ in batch:
                    write(self._writer)
        except sqlite3.Error as error:
            if len(batch) > 1:
                # One that cannot be written takes none of the others with it.
                for each in batch:
                    self._write_batch([each])
                return
            log.error("The history could not be written: %s", error)
            done = batch[0][1]
            if done is not None:
                done.set_exception(
                    StoreError(
                        f"The run could not be noted in '{self._folder}': {error}.",
                        hint="Make room there, or keep no history with --no-history.",
                    )
                )
            return
        for _, done in batch:
            if done is not None:
                done.set_result(None)

    def _written(self, write: Write) -> None:
        done: Future[None] = Future()
        self._writes.put((write, done))
        done.result()

    def _post(self, statement: str, values: tuple[Any, ...]) -> None:
        self._writes.put((lambda db: _execute(db, statement, values), None))

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if self._in_memory:
            # The only connection is the writer's: what is queued has to be in it first.
            self.flush()
        try:
            with self._reading:
                return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(
                f"The history in '{self._folder}' could not be read: {error}."
            ) from error

    def _runs(self, rest: str, values: tuple[Any, ...]) -> list[StoredRun]:
        columns = ", ".join(COLUMNS)
        return [_run(row) for row in self._rows(f"SELECT {columns} FROM runs {rest}", values)]

    def _row(self, result: ResultSaved) -> tuple[str, int]:
        path = Path(result.path)
        try:
            size_bytes = path.stat().st_size
        except OSError:
            size_bytes = 0
        # Relative, so that the folder of results can be moved.
        moved = {
            name: str(_below(Path(getattr(result, name)), self._outputs))
            for name in ("path", "sidecar")
        }
        return result.model_copy(update=moved).model_dump_json(), size_bytes

    def _result(self, saved: str) -> ResultSaved:
        result = ResultSaved.model_validate_json(saved)
        here = {name: str(self._outputs / getattr(result, name)) for name in ("path", "sidecar")}
        return result.model_copy(update=here)


COLUMNS = (
    "run_id", "owner", "workflow", "workflow_path", "workflow_hash", "title", "inputs", "changes",
    "seed", "seed_given", "fresh", "submitted_at", "plan", "state", "attempts", "started_at",
    "ended_at", "timings", "ending",
)  # fmt: skip
"""Of a row of `runs`, in the order of StoredRun's fields."""


def _run(row: tuple[Any, ...]) -> StoredRun:
    fields = dict(zip(COLUMNS, row, strict=True))
    assert fields["state"] in get_args(StoredState)
    timings = fields["timings"]
    return StoredRun(
        **{
            **fields,
            "inputs": json.loads(fields["inputs"]),
            "changes": json.loads(fields["changes"]),
            "seed": int(fields["seed"]),
            "seed_given": bool(fields["seed_given"]),
            "fresh": bool(fields["fresh"]),
            "timings": timings and Timings.model_validate_json(timings),
        }
    )


def _insert(db: sqlite3.Connection, run: StoredRun) -> None:
    row = {
        **{name: getattr(run, name) for name in COLUMNS},
        "inputs": json.dumps(dict(run.inputs)),
        "changes": json.dumps(dict(run.changes)),
        # SQLite's whole numbers have 64 bits, a seed any number.
        "seed": str(run.seed),
        "timings": run.timings and run.timings.model_dump_json(),
    }
    names = ", ".join(COLUMNS)
    places = ", ".join(f":{name}" for name in COLUMNS)
    number = db.execute(f"INSERT INTO runs ({names}) VALUES ({places})", row).lastrowid
    texts = "\n".join(text for text in run.inputs.values() if isinstance(text, str))
    db.execute("INSERT INTO prompts (rowid, text) VALUES (?, ?)", (number, texts))


def _execute(db: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> None:
    db.execute(statement, values)


def _below(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path
