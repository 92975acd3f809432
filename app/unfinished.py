"""Unfinished files and private folders of a process, which a killed process leaves behind.

Their process holds a lock on them, which ends with the process in any case: unlocked ones are
abandoned. Each gets the name that is looked for only once it is locked, so that a new one is never
taken for an abandoned one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

NEW = ".new-"
"""Prefix of a name before it is locked: for microseconds."""
PART = ".part-"
"""Prefix of a file, or of a folder of files, that is being written."""
PRIVATE = "workbench-"
"""Prefix of a process's own folder, in the folder for temporary files."""
LOCK = ".lock"
"""The locked file of a folder."""


@contextlib.contextmanager
def part_file(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Yields a new file of this folder and its path; it is removed unless it was renamed."""
    number, name = tempfile.mkstemp(dir=folder, prefix=NEW)
    path = Path(name)
    try:
        # Opened by name, not by descriptor: libraries ask a file for its name.
        with open(name, "w+b", opener=lambda _name, _flags: number) as file:
            _lock(file)
            path = path.rename(folder / f"{PART}{secrets.token_hex(8)}")
            yield file, path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def private_folder(parent: Path, prefix: str = PART) -> Iterator[Path]:
    """Yields a new folder that this user alone may enter; it is removed at the end."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=NEW))
    try:
        with (folder / LOCK).open("wb") as lock:
            _lock(lock)
            folder = folder.rename(parent / f"{prefix}{secrets.token_hex(8)}").resolve()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[bytes]) -> None:
    # Some network file systems have no locks: files left behind there stay.
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_in_use(path: Path) -> bool:
    """Returns True if a living process holds this file or folder, or that is unknown."""
    with _abandoned(path) as found:
        return not found


def remove_abandoned(folder: Path, prefix: str = PART) -> list[Path]:
    """Removes and returns the files and folders of this folder that no process holds."""
    removed = []
    for path in sorted(folder.glob(f"{prefix}*")):
        with _abandoned(path) as found:
            if found:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                removed.append(path)
    return removed


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Yields whether this is abandoned; locks it meanwhile."""
    try:
        status = path.lstat()
        if status.st_uid != os.getuid() or stat.S_ISLNK(status.st_mode):
            yield False
            return
        held = path / LOCK if stat.S_ISDIR(status.st_mode) else path
        lock = os.open(held, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        # Removed meanwhile, or a folder without a lock, which is not ours.
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)
