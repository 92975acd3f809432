"""A disk cache of weights converted to another dtype than their files have; free of torch.

Each component has a folder beside the results, with the layout of a published one, so the same code
loads both. The folder appears under its key only when it is complete and on disk. A list of its
files detects damage and other library versions; such a folder is removed and written again. The
cache may be deleted at any time.
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

from app.dialect.files import HEADER_LENGTH_BYTES
from app.dialect.fingerprint import library_versions, tensor_bytes
from app.unfinished import private_folder

log = logging.getLogger(__name__)

FOLDER = ".weights"
LIST = "component.json"


class CachedComponent(NamedTuple):
    """One cached component, for display."""

    title: str
    size_bytes: int
    last_used: float
    """Unix seconds."""


class ConvertedWeights:
    """One folder per component, by key, bounded in bytes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def folder_of(self, key: str) -> Path:
        """Returns the path for this component, which may not exist."""
        return self._folder / key

    def find(self, key: str) -> Path | None:
        """Returns the folder of this component or None; removes a damaged one."""
        folder = self.folder_of(key)
        if not folder.is_dir():
            return None
        if not _is_sound(folder):
            log.warning("Converted weights in '%s' are damaged or of other versions", key)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            # The folder may be read-only.
            os.utime(folder)
        return folder

    def has_room(self, size_bytes: int) -> bool:
        """Returns whether so many bytes may be written: within the bound, and no more than half
        of the free disk space."""
        existing = next(path for path in (self._folder, *self._folder.parents) if path.is_dir())
        free_bytes = shutil.disk_usage(existing).free
        return size_bytes <= self._max_bytes and 2 * size_bytes <= free_bytes

    @contextlib.contextmanager
    def writing(self, key: str, title: str) -> Iterator[Path]:
        """Yields an empty folder to write a component into; publishes it on success.

        Afterwards evicts the least recently used components over the bound. Raises OSError.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with private_folder(self._folder) as temporary:
            written = temporary / key
            written.mkdir()
            yield written
            files = {path.name: _digest(path) for path in sorted(written.iterdir())}
            listed = {"title": title, "versions": library_versions(), "files": files}
            (written / LIST).write_text(json.dumps(listed, indent=1))
            # Never replaces a folder: its files may be mapped by another process.
            written.rename(self.folder_of(key))
        self._trim()

    def kept(self) -> list[CachedComponent]:
        """Returns the cached components, the most recently used first."""
        kept = [
            CachedComponent(_title(folder), _size_bytes(folder), folder.stat().st_mtime)
            for folder in self._folders()
        ]
        return sorted(kept, key=lambda each: -each.last_used)

    def clear(self) -> int:
        """Removes everything; returns the bytes freed. Raises OSError."""
        size_bytes = sum(_size_bytes(folder) for folder in self._folders())
        if self._folder.is_dir():
            shutil.rmtree(self._folder)
        return size_bytes

    def _folders(self) -> list[Path]:
        """Returns all folders; half-written ones of a killed process too, so that they age out."""
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return [path for path in found if path.is_dir()]

    def _trim(self) -> None:
        sizes_bytes = {folder: _size_bytes(folder) for folder in self._folders()}
        held_bytes = sum(sizes_bytes.values())
        for folder in sorted(sizes_bytes, key=lambda folder: folder.stat().st_mtime_ns):
            if held_bytes <= self._max_bytes:
                break
            log.info("Evicting converted weights: %s", _title(folder))
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
    """Returns a digest of a file: its size, and the SHA-256 of its text or safetensors header.

    The header has names, shapes and dtypes of tensors; the tensors' data are not read.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return f"{size_bytes} {hashlib.sha256(file.read()).hexdigest()}"
        tensor_bytes(path)  # raises if it is not a valid safetensors file
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
