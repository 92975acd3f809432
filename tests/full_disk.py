"""A disk that takes no more, for one process, without any rights: files may not grow beyond a size.

Python ignores the signal that comes with it (SIGXFSZ), so a write fails as on a full disk: with
OSError, and with another of its numbers (EFBIG).
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(pid: int = 0, max_bytes: int = 200) -> Iterator[None]:
    """Inside, no file that this process (0: the test's own) writes grows beyond so many bytes."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
