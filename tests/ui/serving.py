"""Runs `serve` as a process with given arguments and environment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.conftest import PROJECT
from tests.processes import started

START_S = 120


class Served(NamedTuple):
    """A server that answers."""

    process: subprocess.Popen[str]
    url: str

    @property
    def children(self) -> list[psutil.Process]:
        """Returns its worker and other child processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Sends the signal; returns the exit code, and the seconds until it was gone."""
        sent = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=30), time.monotonic() - sent


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", "serve", "--port", "0", "--device", "cpu",
            "--output", str(folder / "outputs"), *arguments]  # fmt: skip


@contextlib.contextmanager
def served(
    folder: Path, *arguments: str, ignored: Sequence[signal.Signals] = (), **environment: str
) -> Iterator[Served]:
    """Starts a server with these arguments on any free port; ended with the test."""
    log = folder / "server.log"
    with (
        log.open("w") as errors,
        started(
            command(folder, *arguments), cwd=PROJECT, env={**os.environ, **environment},
            stdout=subprocess.PIPE, stderr=errors, text=True, ignored=ignored,
        ) as process,
    ):  # fmt: skip
        too_late = threading.Timer(START_S, process.kill)
        too_late.start()
        try:
            first = process.stdout.readline()
            serving = re.fullmatch(r"Serving on (http://\S+)/\n", first)
            assert serving, first + log.read_text()
            yield Served(process, serving[1])
        finally:
            too_late.cancel()
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=30)


def answer(url: str) -> int:
    """Returns the status code that an unauthenticated client gets."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
