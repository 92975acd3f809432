"""Weights converted to a dtype that their files do not have, kept on disk; free of torch.

Each component has a folder beside the results, laid out as its library lays out a published one,
so what loads the published one loads this. It appears under its key only when it is whole and on
the disk, and is known by a list of its files: what is damaged, or was written by other versions of
the libraries, is removed and made anew. Nobody's pictures depend on it: it may be deleted any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from app.unfinished import private_folder
from app.workflow.fingerprint import HEADER_LENGTH_BYTES, library_versions, tensor_bytes

log = logging.getLogger(__name__)

FOLDER = ".weights"
LIST = "component.json"


class Kept(NamedTuple):
    """One component of the folder, for a person."""

    title: str
    size_bytes: int
    last_used: float
    """Unix seconds."""


class ConvertedWeights:
    """One folder for each component, by key; together within a bound of bytes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def folder_of(self, key: str) -> Path:
        """Where this component is, if it is here."""
        return self._folder / key

    def find(self, key: str) -> Path | None:
        """The folder of this component. One that cannot be trusted is removed."""
        folder = self.folder_of(key)
        if not folder.is_dir():
            return None
        if not _is_sound(folder):
            log.warning("Converted weights in '%s' are damaged or of other versions", key)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            # In a folder that may only be read nothing is written either.
            os.utime(folder)
        return folder

    def has_room(self, size_bytes: int) -> bool:
        """Whether so many bytes may be written.

        They must be within the bound and leave on the disk at least as much as they take.
        """
        existing = next(path for path in (self._folder, *self._folder.parents) if path.is_dir())
        free_bytes = shutil.disk_usage(existing).free
        return size_bytes <= self._max_bytes and 2 * size_bytes <= free_bytes

    @contextlib.contextmanager
    def writing(self, key: str, title: str) -> Iterator[Path]:
        """An empty folder to write a component into; it gets its name when all went well.

        For room the longest unused components leave. Raises OSError.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with private_folder(self._folder) as temporary:
            written = temporary / key
            written.mkdir()
            yield written
            files = {path.name: _digest(path) for path in sorted(written.iterdir())}
            listed = {"title": title, "versions": library_versions(), "files": files}
            (written / LIST).write_text(json.dumps(listed, indent=1))
            # Never over a folder that is there: its files may be mapped by another process.
            written.rename(self.folder_of(key))
        self._trim()

    def kept(self) -> list[Kept]:
        """What is here, the last used first."""
        kept = [
            Kept(_title(folder), _size_bytes(folder), folder.stat().st_mtime)
            for folder in self._folders()
        ]
        return sorted(kept, key=lambda each: -each.last_used)

    def clear(self) -> int:
        """Remove everything; how many bytes that was. Raises OSError."""
        size_bytes = sum(_size_bytes(folder) for folder in self._folders())
        if self._folder.is_dir():
            shutil.rmtree(self._folder)
        return size_bytes

    def _folders(self) -> list[Path]:
        """What a killed process left half written is one too, so that it ages out."""
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return [path for path in found if path.is_dir()]

    def _trim(self) -> None:
        sizes_bytes = {folder: _size_bytes(folder) for folder in self._folders()}
        held_bytes = sum(sizes_bytes.values())
        for folder in sorted(sizes_bytes, key=lambda folder: folder.stat().st_mtime_ns):
            if held_bytes <= self._max_bytes:
                break
            log.info("Removing converted weights for room: %s", _title(folder))
            shutil.rmtree(folder)
            held_bytes -= sizes_bytes[folder]


def _is_sound(folder: Path) -> bool:
    listed = _listed(folder)
    if listed.get("versions") != library_versions():
        return False
    try:
        return all(_digest(folder / name) == digest for name, digest in listed["files"].items())
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> str:
    """What tells whether a file is whole: its size, and the SHA-256 of its text or header.

    Names, shapes and dtypes of tensors are in the header; their numbers are not read.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return f"{size_bytes} {hashlib.sha256(file.read()).hexdigest()}"
        tensor_bytes(path)  # says so where it is none
        length = file.read(HEADER_LENGTH_BYTES)
        header = file.read(int.from_bytes(length, "little"))
        return f"{size_bytes} {hashlib.sha256(length + header).hexdigest()}"


def _listed(folder: Path) -> dict[str, Any]:
    try:
        listed = json.loads((folder / LIST).read_text())
    except (OSError, ValueError):
        return {}
    return listed if isinstance(listed, dict) else {}


def _title(folder: Path) -> str:
    return str(_listed(folder).get("title", "half written"))


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
