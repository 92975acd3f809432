"""Starts processes as a terminal or `nohup` does, and says whether processes have ended."""

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
    """A process that finds these signals ignored and no other: neither those that are ignored here,
    where tests run in the background, nor those that somebody handles here."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number in ENDING:
            # What is handled here is the default in the child. SIG_DFL would do so too, but a
            # signal that comes now would end the tests.
            signal.signal(number, signal.SIG_IGN if number in ignored else lambda *_: None)
        return subprocess.Popen(command, **options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
