"""Simulates a full disk for one process, without privileges: a limit of file sizes.

Python ignores the signal that comes with it (SIGXFSZ), so a write fails as on a full disk: with
OSError, but another number (EFBIG).
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(pid: int = 0, max_bytes: int = 200) -> Iterator[None]:
    """Limits the size of files that this process (0: the test's own) writes inside the block."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
