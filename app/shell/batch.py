"""`python -m app batch`: runs a workflow for each row of a table, one after another, resumable."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console

from app.errors import BadRequest, Problem, WorkbenchError
from app.shell.batch_results import BatchResults
from app.shell.batch_rows import Row, read_rows
from app.shell.terminal import progress
from app.shell.workbench import Ended, Workbench
from app.signals import ABORTED, CtrlC, first_ctrl_c
from app.stamps import stamp_of

POLL_S = 0.5
"""Interval in which a watched file is looked at."""
NAMED_ROWS = 3
"""Rows named where several have the same mistake; the others are counted."""


class Batch:
    """The runs of one table."""

    def __init__(
        self,
        workbench: Workbench,
        file: Path,
        *,
        workflow: str | None,
        changes: Mapping[str, JsonValue],
        fresh: bool,
        console: Console,
    ) -> None:
        """`workflow` is for the rows that name none; results go to `FILE.results.jsonl`."""
        self._workbench = workbench
        self._file = file
        self._workflow = workflow
        self._changes = changes
        self._fresh = fresh
        self._console = console
        self._names: dict[str, str] = {}
        """The names by which the workbench runs the workflows."""
        self._succeeded = self._failed = self._skipped = 0

    def run(self, rows: Sequence[Row], *, watch: bool = False) -> int:
        """Runs the rows of the file; returns the exit code: 1 if one failed, 130 if Ctrl-C left
        some undone.

        `watch` then waits for appended rows until Ctrl-C. Raises BadRequest, before the first run,
        for mistakes in any of the rows.
        """
        with first_ctrl_c() as ctrl_c:
            results = BatchResults(
                self._file.with_suffix(".results.jsonl"), self._changes, anew=self._fresh
            )
            todo = [row for row in rows if not results.has(row)]
            self._skipped = len(rows) - len(todo)
            self._check(todo, ctrl_c)
            results.begin()
            all_done = self._run_all(todo, results, ctrl_c, of=None if watch else len(rows))
            if watch and all_done:
                all_done = all(
                    self._run_all(appended, results, ctrl_c, of=None)
                    for appended in self._appended(len(rows), ctrl_c)
                )
        self._say(self._summary(results))
        if not all_done:
            return ABORTED
        return 1 if self._failed else 0

    def _check(self, rows: Sequence[Row], ctrl_c: CtrlC) -> None:
        """Plans every row. Raises BadRequest with all problems."""
        found = []
        with progress(self._console) as show:
            for number, row in enumerate(rows):
                if ctrl_c.came:
                    return
                show(f"Checking {row.place}", number / len(rows))
                found += [(row, each) for each in self._problems(row)]
        if found:
            raise BadRequest(
                f"'{self._file.name}' has mistakes, so no row was run.", _grouped(found)
            )

    def _problems(self, row: Row) -> Sequence[Problem]:
        if row.problems:
            return row.problems
        try:
            if row.workflow not in self._names:
                self._names[row.workflow] = self._workbench.describe(row.workflow).name
            name = self._names[row.workflow]
            self._workbench.check(name, row.inputs, row.seed, self._changes)
        except BadRequest as error:
            own = Problem(place="", message=error.message, hint=error.hint)
            return error.problems or (own,)
        return ()

    def _run_all(
        self, rows: Sequence[Row], results: BatchResults, ctrl_c: CtrlC, of: int | None
    ) -> bool:
        """Runs these rows; returns False if Ctrl-C ended that early."""
        for row in rows:
            if ctrl_c.came:
                return False
            title = f"Row {row.number}" + (f" of {of}" if of is not None else "")
            ended = self._run_one(row, title)
            if ended.seconds is None and ctrl_c.came:
                self._say(f"{title}: {ended.sentence}")
                return False
            results.add(row, ended)
            self._succeeded += ended.seconds is not None
            self._failed += ended.seconds is None
            self._say(f"{title}: {ended.sentence}")
            print(*ended.files, sep="\n", end="\n" if ended.files else "", flush=True)
        return True

    def _run_one(self, row: Row, title: str) -> Ended:
        # Rows that were appended have not been checked.
        if problems := self._problems(row):
            return Ended(None, [], "\n".join(map(str, problems)))
        try:
            return self._workbench.run(
                self._names[row.workflow],
                row.inputs,
                row.seed,
                self._fresh,
                changes=self._changes,
                title=f"{title}: ",
            )
        except WorkbenchError as error:
            return Ended(None, [], str(error))

    def _appended(self, known: int, ctrl_c: CtrlC) -> Iterator[list[Row]]:
        """Yields the rows behind the first `known` ones as they come, until Ctrl-C."""
        self._say(f"Waiting for rows in {self._file}. Ctrl-C ends that.")
        stamp: object = None
        while not ctrl_c.came:
            try:
                before, stamp = stamp, stamp_of(self._file)
            except OSError as error:
                raise BadRequest(f"'{self._file}' has gone: {error.strerror}.") from None
            if stamp == before:
                time.sleep(POLL_S)
                continue
            rows = read_rows(self._file, self._workflow, growing=True)
            yield rows[known:]
            known = max(known, len(rows))

    def _summary(self, results: BatchResults) -> str:
        parts = [f"{self._succeeded} done"]
        if self._skipped:
            parts.append(f"{self._skipped} done before")
        parts.append(f"{self._failed} failed")
        return f"Rows: {', '.join(parts)}. Results: {results.file}"

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _grouped(found: Sequence[tuple[Row, Problem]]) -> list[Problem]:
    """Returns each problem once, with the rows that have it."""
    rows_with: dict[Problem, list[Row]] = {}
    for row, problem in found:
        rows_with.setdefault(problem, []).append(row)
    return [
        Problem(
            place=", ".join(filter(None, (_rows(rows), each.place.removeprefix("inputs.")))),
            message=each.message,
            hint=each.hint,
        )
        for each, rows in rows_with.items()
    ]


def _rows(rows: Sequence[Row]) -> str:
    if len(rows) == 1:
        return rows[0].place
    numbers = [str(row.number) for row in rows]
    more = f" and {len(numbers) - NAMED_ROWS} more" if len(numbers) > NAMED_ROWS else ""
    return f"rows {', '.join(numbers[:NAMED_ROWS])}{more}"
