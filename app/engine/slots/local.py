"""A worker process on this machine: spawn, send, read, kill, exit report."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from app.engine.secrets import remove_secrets
from app.engine.slots.worker import StartWorker, WorkerExit
from app.protocol import Command, Event, decode_event, encode
from app.settings import WorkerSettings

log = logging.getLogger(__name__)

WorkerTarget = Callable[[Connection, WorkerSettings, Path], None]

KEPT_STDERR_LINES = 20
EXIT_S = 5.0
"""How long a worker may take to exit after closing its pipe."""
LAST_LINES_S = 2.0
"""How long reading the last lines of an exited worker may take."""
POLL_S = 0.5
"""Interval of checks whether a silent worker is alive."""


def run_worker(connection: Connection, settings: WorkerSettings, outputs: Path) -> None:
    """Runs the real worker; the engine's only import of `app.worker`."""
    from app.worker.main import run_worker as run

    run(connection, settings, outputs)


def starting(target: WorkerTarget, outputs: Path) -> StartWorker:
    """Returns a StartWorker whose processes run `target` and write results below `outputs`."""
    return partial(WorkerProcess, target, outputs)


class WorkerProcess:
    """One child process. `on_event` and `on_exit` are called on a reader thread, in order.

    Another thread writes commands, so that nobody waits for a child that does not read. `on_exit`
    is called exactly once, after the last event: the pipe is read to its end first.
    """

    def __init__(
        self,
        target: WorkerTarget,
        outputs: Path,
        settings: WorkerSettings,
        on_event: Callable[[Event], None],
        on_exit: Callable[[WorkerExit], None],
    ) -> None:
        spawning = get_context("spawn")
        self._connection, childs_end = spawning.Pipe()
        self._stderr, childs_stderr = spawning.Pipe(duplex=False)
        self._last_lines: deque[str] = deque(maxlen=KEPT_STDERR_LINES)
        self._process = spawning.Process(
            target=_enter,
            args=(target, childs_end, childs_stderr, settings, outputs),
            name="dw-worker",
            daemon=True,
        )
        # Ctrl-C reaches the whole process group; blocked until the child ignores it.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        # Closed here, so that the pipes end when the child does.
        childs_end.close()
        childs_stderr.close()
        self._on_event, self._on_exit = on_event, on_exit
        self._to_write: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writing = threading.Thread(target=self._write, name="worker commands", daemon=True)
        self._writing.start()
        self._listening = threading.Thread(target=self._listen, name="worker stderr", daemon=True)
        self._listening.start()
        threading.Thread(target=self._read, name="worker events", daemon=True).start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, command: Command) -> None:
        """Sends a command without blocking; lost if the worker has ended, as `on_exit` reports.
        Raises ValueError if the command cannot be encoded."""
        self._to_write.put(encode(command))

    def kill(self) -> None:
        """Ends the process at once (SIGKILL)."""
        self._process.kill()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (data := self._to_write.get()) is not None:
                self._connection.send_bytes(data)

    def _read(self) -> None:
        try:
            while self._has_more():
                self._on_event(decode_event(self._connection.recv_bytes()))
        except (EOFError, OSError):
            # A killed child with unread data shows as ConnectionResetError, not as the file's end.
            pass
        except Exception:
            # Later events cannot be trusted either.
            log.exception("The worker process sent an invalid event and is killed")
            self._process.kill()
        self._process.join(EXIT_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._listening.join(LAST_LINES_S)
        # Closed after the writer has ended: the descriptor's number will be reused.
        self._to_write.put(None)
        self._writing.join(EXIT_S)
        self._connection.close()
        self._on_exit(exit_of(self._process.exitcode, "".join(self._last_lines)))

    def _has_more(self) -> bool:
        """Waits for the next event; returns False if none can come.

        A process started by the worker may outlive it and hold the pipe open.
        """
        while not self._connection.poll(POLL_S):
            if not self._process.is_alive():
                return self._connection.poll()
        return True

    def _listen(self) -> None:
        """Passes the child's stderr on and keeps its last lines, for the exit report."""
        with os.fdopen(os.dup(self._stderr.fileno()), errors="replace") as lines:
            self._stderr.close()
            for line in lines:
                self._last_lines.append(line)
                sys.stderr.write(line)


def exit_of(exit_code: int | None, last_lines: str) -> WorkerExit:
    """Returns the report for this exit code; a negative one is a signal."""
    if exit_code is None or exit_code >= 0:
        sentence = f"The worker process ended by itself (exit code {exit_code})."
    else:
        sentence = f"The worker process was ended by {signal.Signals(-exit_code).name}."
    hint = "It starts again by itself; the server's log has its last lines."
    if exit_code == -signal.SIGKILL:
        hint = "If nobody did that, the machine ran out of memory. It starts again by itself."
    return WorkerExit(sentence, hint, last_lines)


def _enter(
    target: WorkerTarget,
    connection: Connection,
    stderr: Connection,
    settings: WorkerSettings,
    outputs: Path,
) -> None:
    """Entry of the child: removes secrets, redirects stderr, runs the worker."""
    remove_secrets()
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    target(connection, settings, outputs)
