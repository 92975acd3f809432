"""The interface between a slot and its worker: start, send, events, kill.

`local` implements it by a process on this machine. Nothing else in the engine knows how a worker
runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.protocol import Command, Event
from app.settings import WorkerSettings


@dataclass(frozen=True)
class WorkerExit:
    """How a worker ended, for users."""

    sentence: str
    hint: str
    last_lines: str
    """The end of its stderr."""


class Worker(Protocol):
    """A worker that has been started."""

    @property
    def pid(self) -> int:
        """Process id, on the machine where it runs."""

    def send(self, command: Command) -> None:
        """Sends a command and returns at once; lost if the worker has ended.

        Raises ValueError if the command cannot be encoded.
        """

    def kill(self) -> None:
        """Ends it at once; `on_exit` follows."""


class StartWorker(Protocol):
    """Starts workers; may raise any error."""

    def __call__(
        self,
        settings: WorkerSettings,
        on_event: Callable[[Event], None],
        on_exit: Callable[[WorkerExit], None],
    ) -> Worker:
        """Starts a worker and returns before it is ready.

        Calls both callbacks on a thread of its own, in order; `on_exit` exactly once and last.
        """
