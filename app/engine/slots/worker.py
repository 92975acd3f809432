"""What a slot needs of its worker: start it, send to it, hear from it, kill it.

`local` implements it by a process of this machine. Nothing else in the engine knows how a worker
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
    """How a worker ended, for a person."""

    sentence: str
    """What happened to it."""
    hint: str
    """What the person can do about it."""
    last_lines: str
    """The end of what it wrote to stderr."""


class Worker(Protocol):
    """A worker that has been started."""

    @property
    def pid(self) -> int:
        """Its process id on the machine where it runs."""

    def send(self, command: Command) -> None:
        """Sends a command and returns at once; one to a worker that has ended is lost.

        Raises ValueError where the command cannot be encoded.
        """

    def kill(self) -> None:
        """Ends it at once, whatever it does; `on_exit` follows."""


class StartWorker(Protocol):
    """Starts workers; raises whatever prevents it."""

    def __call__(
        self,
        settings: WorkerSettings,
        on_event: Callable[[Event], None],
        on_exit: Callable[[WorkerExit], None],
    ) -> Worker:
        """Starts one and returns before it is ready.

        Both callbacks are called on a thread of the worker's own, in order; `on_exit` exactly once
        and last.
        """
