"""Rows of a batch: a CSV table or one JSON object per line, each the request of one run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from app.dialect.document import MAX_SEED
from app.errors import BadRequest, Problem, first_line
from app.mistakes import shown

SEED, WORKFLOW = "seed", "workflow"
"""Columns that are no inputs."""
SUFFIXES = (".csv", ".jsonl")


class Row(NamedTuple):
    """One run of a batch."""

    number: int
    """1 for the first row; the header and empty lines are not counted."""
    line: int
    """Its line in the file, from 1."""
    workflow: str
    inputs: dict[str, JsonValue]
    seed: int | None
    problems: tuple[Problem, ...] = ()
    """Why it cannot be read; planning finds the rest."""

    @property
    def place(self) -> str:
        """Its name in messages."""
        return f"row {self.number} (line {self.line})"

    def fingerprint(self, changes: Mapping[str, JsonValue]) -> str:
        """Returns a hash of the request."""
        request = [self.workflow, self.inputs, self.seed, dict(changes)]
        text = json.dumps(request, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_rows(file: Path, workflow: str | None, *, growing: bool = False) -> list[Row]:
    """Returns the rows of the file; `workflow` is for those that name none.

    While a file is `growing`, an unfinished row at its end is left out. Raises BadRequest for a
    file that cannot be read as a whole.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadRequest(
            f"'{file.name}' is no table of rows.",
            hint="A batch is a .csv file, or a .jsonl file with one JSON object per line.",
        )
    text = _text(file, growing)
    found = _table(file, text, growing) if suffix == ".csv" else _objects(text)
    return [
        _row(number, line, cells, workflow or "")
        for number, (line, cells) in enumerate(found, start=1)
    ]


def _text(file: Path, growing: bool) -> str:
    try:
        content = file.read_bytes()
        if growing:
            content = content[: content.rfind(b"\n") + 1]
        # Spreadsheets begin UTF-8 with a byte order mark.
        return content.decode("utf-8-sig")
    except OSError as error:
        raise BadRequest(f"'{file}' cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"'{file}' is not UTF-8 (byte {error.start + 1}).", hint="Save it as UTF-8."
        ) from None


Cells = dict[str, Any] | Problem
"""The named values of a row, or why it cannot be read."""


def _table(file: Path, text: str, growing: bool) -> Iterator[tuple[int, Cells]]:
    """Yields line and cells of each row of a CSV table; empty cells are left out."""
    header: list[str] | None = None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # In a growing file, the rest of a quoted cell may be still to come.
            if not (growing and reader.line_num == text.count("\n")):
                message = f"It cannot be read as CSV: {error}."
                yield line, Problem(place="", message=message, hint="Check its quotes.")
            break
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header(file, cells)
        elif len(cells) > len(header) and any(map(str.strip, cells[len(header) :])):
            message = f"It has {len(cells)} cells, and the header names {len(header)} columns."
            yield line, Problem(place="", message=message, hint="Quote cells with commas.")
        else:
            named = zip(header, cells, strict=False)
            yield line, {name: cell for name, cell in named if cell.strip()}


def _header(file: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    while not names[-1]:
        names.pop()
    for number, name in enumerate(names, start=1):
        if not name:
            raise BadRequest(f"Column {number} of '{file.name}' has no name in the header.")
        if names.index(name) < number - 1:
            raise BadRequest(f"The header of '{file.name}' names '{name}' twice.")
    return names


def _objects(text: str) -> Iterator[tuple[int, Cells]]:
    """Yields line and members of each object; those that are null are left out."""
    # Not splitlines, which also splits at characters that a JSON text may hold.
    for line, each in enumerate(text.split("\n"), start=1):
        if not each.strip():
            continue
        try:
            found = json.loads(each)
        except (ValueError, RecursionError) as error:
            yield line, Problem(place="", message=f"It is no JSON: {first_line(error)}.")
            continue
        if isinstance(found, dict):
            yield line, {name: value for name, value in found.items() if value is not None}
        else:
            yield line, Problem(place="", message=f"An object is needed, not {shown(found)}.")


def _row(number: int, line: int, cells: Cells, workflow: str) -> Row:
    if isinstance(cells, Problem):
        return Row(number, line, workflow, {}, None, (cells,))
    problems = []
    named, seed = cells.pop(WORKFLOW, workflow), cells.pop(SEED, None)
    if isinstance(seed, str) and seed.strip().isdecimal() and seed.isascii():
        seed = int(seed)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        message = f"A whole number is needed, not {shown(seed)}."
        problems.append(Problem(place=SEED, message=message))
    elif seed is not None and not 0 <= seed <= MAX_SEED:
        message = f"{seed} is outside 0 to {MAX_SEED}."
        problems.append(Problem(place=SEED, message=message))
    if not isinstance(named, str) or not named:
        message = f"A name is needed, not {shown(named)}." if named else "No workflow is named."
        hint = "Name one with --workflow, or in a column `workflow`."
        problems.append(Problem(place=WORKFLOW, message=message, hint=hint))
    return Row(number, line, str(named), cells, seed, tuple(problems))
