"""Whether processes have ended, for tests of what a command leaves behind."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil


def left_over(processes: Sequence[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those that still run after so many seconds; returns as soon as there are none.

    One that has ended and that nobody has asked for its exit code does not run any more.
    """
    deadline = time.monotonic() + within_s
    while True:
        _, here = psutil.wait_procs(processes, timeout=0.1)
        running = [process for process in here if _runs(process)]
        if not running or time.monotonic() >= deadline:
            return running


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
