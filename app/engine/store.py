"""The history of runs and their results, in SQLite below the outputs folder.

A run is committed before its id is returned, so a killed server loses nothing. One thread writes,
in batches; the engine's own thread never waits for the disk. With WAL, other threads and processes
can read meanwhile.

Sources: https://sqlite.org/wal.html (a commit with `synchronous=NORMAL` survives a killed process;
a power cut may lose the newest commits, never the database), https://sqlite.org/fts5.html.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from app.engine.store_file import (
    SCHEMA,
    UNFINISHED,
    StoreError,
    connect,
    has_schema,
    opened,
    put_aside,
)
from app.engine.store_rows import (
    COLUMNS,
    LISTED_COLUMNS,
    STATES,
    StoredRun,
    StoredState,
    insert,
    read,
)
from app.protocol import ResultSaved, TerminalEvent

log = logging.getLogger(__name__)

FOLDER = ".history"
FILE = "runs.sqlite"
LOCK = "keeper.lock"

Write = Callable[[sqlite3.Connection], None]


class Store:
    """The history of one outputs folder; thread-safe.

    `is_keeper` is True in the process that holds the folder's lock. Only that one resumes runs and
    cleans up; others add their own runs.
    """

    def __init__(self, outputs: Path, *, keep_history: bool = True, as_keeper: bool = True) -> None:
        """Opens or creates the history; in memory only without `keep_history`.

        `as_keeper` tries the lock (for servers, not for commands). A damaged database is put aside,
        and `notice` says so. Raises StoreError if the folder cannot be used.
        """
        self._outputs = outputs
        self._folder = outputs / FOLDER
        self._lock_file: IO[bytes] | None = None
        self.is_keeper = False
        self.notice = ""
        """A note for users about the history itself."""
        self._reading = threading.Lock()
        self._in_memory = not keep_history
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        if not keep_history:
            self._writer = self._reader = connect(":memory:")
            self._writer.executescript(SCHEMA)
        elif as_keeper:
            self._keep()
        self._writes: queue.SimpleQueue[tuple[Write, Future[None]] | None]
        self._writes = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._thread.start()

    # --- writing ---------------------------------------------------------------------------------

    def add(self, run: StoredRun, plan: Callable[[], str | None] | None = None) -> Future[None]:
        """Adds a run; the future is done when it is committed, or has a StoreError.

        `plan` returns the run's plan as JSON; the writer calls it, since it may be slow.
        """
        return self._write(lambda db: insert(db, replace(run, plan=plan()) if plan else run))

    def add_past(self, runs: Sequence[tuple[StoredRun, Sequence[ResultSaved]]]) -> Future[None]:
        """Adds runs older than the history, oldest first, before all others."""
        rows = [(run, self._saved(run.run_id, results)) for run, results in runs]

        def write(db: sqlite3.Connection) -> None:
            (first,) = db.execute("SELECT coalesce(min(number), 1) FROM runs").fetchone()
            for number, (run, saved) in enumerate(rows, start=first - len(rows)):
                insert(db, run, number)
                db.executemany(INSERT_RESULT, saved)

        return self._write(write)

    def run_ids(self) -> set[str]:
        return {run_id for (run_id,) in self._rows("SELECT run_id FROM runs", ())}

    def note_state(self, run_id: str, state: StoredState) -> None:
        self._post("UPDATE runs SET state = ? WHERE run_id = ?", (state, run_id))

    def note_started(self, run_id: str, started_at: float) -> None:
        """Records that a worker has begun the run, which counts as an attempt."""
        self._post(
            "UPDATE runs SET state = 'running', started_at = ?, attempts = attempts + 1"
            " WHERE run_id = ?",
            (started_at, run_id),
        )

    def note_orderly_stop(self, run_ids: Sequence[str]) -> None:
        """Queues these unfinished runs for the next start, without counting an attempt."""
        for run_id in run_ids:
            self._post(
                "UPDATE runs SET attempts = max(0, attempts - (state = 'running')),"
                " state = 'queued', started_at = NULL WHERE run_id = ?",
                (run_id,),
            )

    def note_ended(
        self, run_id: str, terminal: TerminalEvent, results: Sequence[ResultSaved] = ()
    ) -> None:
        state = STATES[type(terminal)]

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE runs SET state = ?, ended_at = ?, terminal = ?, plan = NULL"
                " WHERE run_id = ?",
                (state, terminal.time, terminal.model_dump_json(), run_id),
            )
            db.executemany(INSERT_RESULT, self._saved(run_id, results))

        self._write(write)

    def forget(self, run_ids: Sequence[str]) -> Future[None]:
        """Deletes runs and their results from the history; files stay."""
        rows = [(run_id,) for run_id in run_ids]

        def write(db: sqlite3.Connection) -> None:
            db.executemany(
                "DELETE FROM prompts WHERE rowid = (SELECT number FROM runs WHERE run_id = ?)", rows
            )
            db.executemany("DELETE FROM runs WHERE run_id = ?", rows)

        return self._write(write)

    def flush(self) -> None:
        """Waits until everything recorded so far is committed."""
        self._write(lambda db: None).result()

    def close(self) -> None:
        """Commits what is left and releases the lock."""
        self._writes.put(None)
        self._thread.join()
        if self._reader is not None:
            self._reader.close()
        if self._lock_file is not None:
            self._lock_file.close()

    # --- reading ---------------------------------------------------------------------------------

    def unfinished(self) -> list[StoredRun]:
        """Returns unfinished runs, in the order of submission."""
        return self._runs(f"WHERE state IN {UNFINISHED} ORDER BY number", ())

    def find(self, run_id: str) -> StoredRun | None:
        return next(iter(self._runs("WHERE run_id = ?", (run_id,))), None)

    def runs(
        self,
        *,
        owner: str | None = None,
        words: str = "",
        limit: int | None = None,
        before: str | None = None,
    ) -> list[StoredRun]:
        """Returns runs without their plans, newest first: those of `owner`, those whose texts have
        all `words`.

        `before` is the id of the last run of the previous page.
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
        values = (*wheres.values(), -1 if limit is None else limit)
        return self._runs(where + last, values, LISTED_COLUMNS)

    def results(self, run_id: str) -> list[ResultSaved]:
        rows = self._rows("SELECT saved FROM results WHERE run_id = ? ORDER BY place", (run_id,))
        return [self._result(saved) for (saved,) in rows]

    def mentions(self, text: str) -> list[tuple[str, str]]:
        """Returns id, and inputs and plan as JSON, of runs with this text there, oldest first."""
        return self._rows(
            "SELECT run_id, inputs || coalesce(plan, '') AS asked FROM runs"
            " WHERE instr(asked, ?) ORDER BY number",
            (text,),
        )

    # --- private ---------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Takes the lock, if no other process has it, and opens the database."""
        file = self._folder / LOCK
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = file.open("ab")
        except OSError as error:
            raise StoreError(
                f"The history cannot be kept in '{self._folder}': {error.strerror}.",
                hint="Choose another folder with --output, or keep none with --no-history.",
            ) from error
        try:
            self.is_keeper = self._lock()
            self._writer = self._opened(self._folder / FILE)
        except BaseException:
            self._lock_file.close()
            raise

    def _lock(self) -> bool:
        if self._lock_file is None:
            self._lock_file = (self._folder / LOCK).open("ab")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _opened(self, file: Path) -> sqlite3.Connection:
        """Opens the database; replaces a damaged one that no server has open."""
        try:
            return opened(file)
        except sqlite3.DatabaseError as error:
            locked = isinstance(error, sqlite3.OperationalError)
            if locked or not (self.is_keeper or self._lock()):
                raise StoreError(
                    f"The history '{file}' cannot be opened: {error}.",
                    hint="Keep none with --no-history, or choose another folder with --output.",
                ) from error
            aside = put_aside(file)
            self.notice = (
                f"The history was damaged ({error}) and was replaced; the old file is {aside.name}."
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
        if self._writer is not None and self._writer is not self._reader:
            self._writer.close()

    def _write_batch(self, batch: list[tuple[Write, Future[None]]]) -> None:
        try:
            db = self._open_writer()
            with db:
                for write, _ in batch:
                    write(db)
        except (sqlite3.Error, StoreError, OSError, ValueError) as error:
            if len(batch) > 1:
                # One failing write must not fail the others.
                for each in batch:
                    self._write_batch([each])
                return
            log.error("The history could not be written: %s", error)
            batch[0][1].set_exception(
                StoreError(
                    f"The run could not be recorded in '{self._folder}': {error}.",
                    hint="Make room there, or keep no history with --no-history.",
                )
            )
            return
        for _, done in batch:
            done.set_result(None)

    def _open_writer(self) -> sqlite3.Connection:
        # Created for the first run, so that a refused command creates nothing.
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._opened(self._folder / FILE)
        return self._writer

    def _open_reader(self) -> sqlite3.Connection | None:
        if self._reader is None and (self._folder / FILE).is_file():
            reader = connect(str(self._folder / FILE))
            if not has_schema(reader):
                # Its writer is about to create it.
                reader.close()
                return None
            self._reader = reader
        return self._reader

    def _write(self, write: Write) -> Future[None]:
        done: Future[None] = Future()
        self._writes.put((write, done))
        return done

    def _post(self, statement: str, values: tuple[Any, ...]) -> None:
        self._write(lambda db: _execute(db, statement, values))

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if self._in_memory:
            # The writer's connection is the only one: queued writes come first.
            self.flush()
        try:
            with self._reading:
                reader = self._open_reader()
                return reader.execute(query, values).fetchall() if reader is not None else []
        except sqlite3.Error as error:
            raise StoreError(
                f"The history in '{self._folder}' could not be read: {error}."
            ) from error

    def _runs(
        self, rest: str, values: tuple[Any, ...], columns: Sequence[str] = COLUMNS
    ) -> list[StoredRun]:
        columns = ", ".join(columns)
        return [read(row) for row in self._rows(f"SELECT {columns} FROM runs {rest}", values)]

    def _saved(
        self, run_id: str, results: Sequence[ResultSaved]
    ) -> list[tuple[str, int, str, int]]:
        return [(run_id, place, *self._row(result)) for place, result in enumerate(results)]

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


INSERT_RESULT = "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)"


def _execute(db: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> None:
    db.execute(statement, values)


def _below(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path
