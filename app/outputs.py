"""The outputs folder: one folder per run, unique names, atomic writes, a record for each file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from app.errors import BadRequest, ResultError
from app.unfinished import part_file

Record = dict[str, Any]
RECORD_KEY = "diffusers_workbench"
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6,32}")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = "Choose another folder with --output or DW_OUTPUTS."
ROOM = f"Make room there and run it again: what is loaded stays loaded. Or: {ELSEWHERE}"
Answer = TypeVar("Answer")
MAX_STEM_BYTES = 200
"""Leaves room in the 255 bytes of a file name for a number, the suffix and `.json`."""


class OutputStore:
    """Writes below one folder only."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def check(self) -> None:
        """Raises BadRequest if this user cannot write here; creates nothing."""
        nearest = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not nearest.is_dir():
            why = f"'{nearest}' is no folder"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            why = f"user {os.getuid()} may not write to '{nearest}'"
        else:
            return
        raise BadRequest(
            f"Results cannot be written to '{self.root}': {why}.",
            hint=ELSEWHERE,
        )

    def run_folder(self, run_id: str) -> Path:
        """Returns the run's folder, which may not exist. Raises ValueError for an invalid id."""
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(f"'{run_id}' is not the id of a run")
        return self.root / run_id

    def new_file(self, run_id: str, stem: str, suffix: str) -> Path:
        """Returns a new path in the run's folder, which it creates."""
        folder = self.run_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        cut = re.sub(r"[^\w.-]+", "_", stem).strip("._").encode()[:MAX_STEM_BYTES]
        safe = cut.decode(errors="ignore") or "result"
        path, number = folder / f"{safe}{suffix}", 2
        while path.exists():
            path, number = folder / f"{safe}-{number}{suffix}", number + 1
        return path

    def write_sidecar(self, path: Path, record: Record) -> Path:
        """Writes the record beside a result; returns the path of the JSON file."""
        sidecar = sidecar_of(path)
        with replacing(sidecar) as file:
            file.write(sidecar_bytes(record))
        return sidecar

    @contextlib.contextmanager
    def new_result(self, path: Path, record: Record) -> Iterator[NewFile]:
        """Yields a result's file; it appears with its record when it was written completely.

        The record goes first, so that a kill in between leaves no result without a record.
        """
        with part_file(path.parent) as (file, part):
            with _raising_first_error(file, path) as new:
                yield new
            sidecar = self.write_sidecar(path, record)
            try:
                _move(part, path)
            except OSError:
                sidecar.unlink(missing_ok=True)
                raise

    def runs(self) -> list[str]:
        """Returns the ids of runs that have a folder, newest first."""
        if not self.root.is_dir():
            return []
        names = (folder.name for folder in self.root.iterdir() if folder.is_dir())
        return sorted((name for name in names if RUN_ID.fullmatch(name)), reverse=True)

    def delete(self, run_id: str) -> None:
        folder = self.run_folder(run_id)
        if folder.is_dir():
            shutil.rmtree(folder)


def sidecar_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def sidecar_bytes(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False, indent=2).encode()


def reference_to_sidecar(path: Path, record: Record) -> Record:
    """Returns a reference for files without room for the record: the sidecar's name and hash."""
    digest = hashlib.sha256(sidecar_bytes(record)).hexdigest()
    return {"sidecar": sidecar_of(path).name, "sidecar_sha256": digest}


class NewFile:
    """A file object for encoders that keeps the first write error and ignores later calls.

    Encoders replace write errors by their own, or ignore them. It has no `fileno`, so that they
    cannot write past it.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self.path = path
        """Its final place."""
        self.error: OSError | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        return self._try(lambda: self._file.write(data), memoryview(data).nbytes)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._try(lambda: self._file.seek(offset, whence), offset)

    def tell(self) -> int:
        return self._try(self._file.tell, 0)

    def flush(self) -> None:
        self._try(self._file.flush, None)

    def _try(self, call: Callable[[], Answer], dropped: Answer) -> Answer:
        if self.error is not None:
            return dropped
        try:
            return call()
        except OSError as error:
            self.error = error
            raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[NewFile]:
    """Yields a file that appears under `path` only when it was written completely.

    Raises the first OSError of a write, whatever the encoder made of it.
    """
    with part_file(path.parent) as (file, part):
        with _raising_first_error(file, path) as new:
            yield new
        _move(part, path)


@contextlib.contextmanager
def _raising_first_error(file: IO[bytes], path: Path) -> Iterator[NewFile]:
    new = NewFile(file, path)
    try:
        yield new
        new.flush()
    except Exception:
        if new.error is not None:
            raise new.error from None
        raise
    if new.error is not None:
        raise new.error


def _move(part: Path, path: Path) -> None:
    # Temporary files are private; the folder's permissions protect results.
    part.chmod(0o644)
    part.replace(path)


@contextlib.contextmanager
def naming_disk_errors(folder: Path) -> Iterator[None]:
    """Raises ResultError, with a sentence, for OSErrors inside."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise ResultError(
            f"Results cannot be written to '{folder}': {_reason(error.errno)}.",
            hint=ROOM if error.errno in FULL else ELSEWHERE,
            detail=str(error),
        ) from error


def _reason(number: int) -> str:
    if number in FULL:
        return "the disk is full"
    if number in (errno.EACCES, errno.EPERM):
        return f"user {os.getuid()} may not write there"
    if number == errno.EROFS:
        return "the disk is read-only"
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "the folder has gone, or is no folder"
    return os.strerror(number).lower()
