"""The results file of a batch: one JSON object for each row that was run, which makes it
resumable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from app.errors import BadRequest, WorkbenchError
from app.shell.batch_rows import Row
from app.shell.workbench import Ended

ELSEWHERE = "Move the table to a folder that you may write to."


class BatchResults:
    """What became of the rows. Each line is written when its row has ended."""

    def __init__(self, file: Path, changes: Mapping[str, JsonValue], *, anew: bool) -> None:
        """Reads the file, unless it begins `anew`. Raises BadRequest if it is no results file."""
        self.file = file
        self._changes = changes
        try:
            content = file.read_bytes() if file.exists() and not anew else b""
        except OSError as error:
            raise BadRequest(f"'{file}' cannot be read: {error.strerror}.") from None
        # The last line is incomplete if the command was killed while it wrote.
        self._kept_bytes = content.rfind(b"\n") + 1
        self._done = Counter(_done(file, content[: self._kept_bytes]))

    def begin(self) -> None:
        """Prepares the file for further rows. Raises BadRequest if it cannot be written."""
        try:
            with self.file.open("ab") as file:
                file.truncate(self._kept_bytes)
        except OSError as error:
            raise BadRequest(
                f"'{self.file}' cannot be written: {error.strerror}.", hint=ELSEWHERE
            ) from None

    def has(self, row: Row) -> bool:
        """Returns whether an earlier run of this row has its files. Of equal rows, each is asked
        about once."""
        fingerprint = row.fingerprint(self._changes)
        known = self._done[fingerprint] > 0
        self._done[fingerprint] -= known
        return known

    def add(self, row: Row, ended: Ended) -> None:
        """Appends what became of the row. Raises WorkbenchError if that cannot be written."""
        told: dict[str, Any] = {
            "row": row.number,
            "hash": row.fingerprint(self._changes),
            "workflow": row.workflow,
            "seed": row.seed if ended.seed is None else ended.seed,
        }
        if ended.seconds is None:
            told["error"] = ended.sentence
        else:
            told |= {"files": ended.files, "seconds": ended.seconds}
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
        except OSError as error:
            raise WorkbenchError(
                f"'{self.file}' cannot be written: {error.strerror}.",
                hint="Make room there and start the batch again: it goes on behind the last row.",
            ) from error


def _done(file: Path, content: bytes) -> list[str]:
    """Returns the hashes of the rows that succeeded and whose files are there."""
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            told = json.loads(line)
            files = told.get("files")
            if files is not None and all(Path(each).is_file() for each in files):
                found.append(str(told["hash"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadRequest(
                f"Line {number} of '{file}' is not of a batch.",
                hint="Move that file away, or give --fresh to begin it anew.",
            ) from None
    return found
