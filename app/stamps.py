"""Stamps that tell versions of a file apart without reading it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class FileStamp(NamedTuple):
    """Equal for a file that nobody has written to since.

    The time of its last change is the kernel's own: unlike the time of modification nobody can set
    it back, so a file that was overwritten and restored has another stamp.
    """

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """Returns the stamp from a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def stamp_of(path: Path) -> FileStamp:
    """Returns the present stamp of this file. Raises OSError."""
    return FileStamp.of(path.stat())
