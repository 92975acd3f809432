"""Starts processes as a terminal or `nohup` does, and checks whether processes have ended."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import psutil

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def started(
    command: Sequence[str], *, ignored: Sequence[signal.Signals] = (), **options: Any
) -> subprocess.Popen[Any]:
    """Starts a process that ignores these signals and no other: neither those ignored here, where
    tests run in the background, nor those handled here."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number in ENDING:
            # Signals handled here have their default in the child. SIG_DFL would do that too, but a
            # signal arriving now would end the tests.
            signal.signal(number, signal.SIG_IGN if number in ignored else lambda *_: None)
        return subprocess.Popen(command, **options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def left_over(processes: Sequence[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Returns those that still run after so many seconds, early if there are none.

    A process that has ended but was not waited for counts as ended.
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
