"""The engine's view of a worker's memory: held components, pending requests, idle deadlines.

Used on the engine's thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from app.engine.status import EngineStatus
from app.errors import WorkerDied
from app.protocol import (
    BoundedMemory,
    Budgets,
    CleanUp,
    DropComponents,
    Eviction,
    FreeMemory,
    HeldComponent,
    MemoryFreed,
    MemoryReported,
    MemoryUse,
    MoveToRam,
)
from app.settings import EngineSettings

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
IdleCommand = CleanUp | DropComponents | MoveToRam


class WorkerMemory:
    """The worker's last memory report, and the requests that wait for a change."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.use: MemoryUse | None = None
        self.budgets: Budgets | None = None
        self.held: tuple[HeldComponent, ...] = ()
        self.bounded: tuple[BoundedMemory, ...] = ()
        self.last_eviction: Eviction | None = None
        self._frees: list[Future[MemoryFreed]] = []
        self._freeing: list[Future[MemoryFreed]] = []
        self._asked: dict[str, Future[EngineStatus]] = {}
        """Answers to pin and drop requests, by request id."""
        self._idle_since: float | None = None
        """Monotonic seconds; None during a run and before the first."""
        self._due: dict[str, float] = {}
        """Seconds of idleness after which an action is due, by its name."""

    # --- events of the worker --------------------------------------------------------------------

    def began(self, use: MemoryUse) -> None:
        """Handles a new, ready worker: nothing is held."""
        self.use, self.held, self.bounded = use, (), ()

    def reported(self, event: MemoryReported, status: Callable[[], EngineStatus]) -> None:
        """Stores the report, and answers the request it belongs to."""
        if self.budgets is None and self._settings.idle_to_ram_s and not event.budgets.ram_bytes:
            log.warning("DW_IDLE_TO_RAM_S has no effect: there is no accelerator.")
        self.use, self.held, self.bounded = event.memory, event.held, event.bounded
        self.budgets, self.last_eviction = event.budgets, event.last_eviction
        if (asked := self._asked.pop(event.request_id, None)) is not None:
            _settle(asked, status())

    def freed(self, event: MemoryFreed) -> None:
        """Answers all pending requests to free memory."""
        answers, self._freeing = self._freeing, []
        self.use = event.after
        for answer in answers:
            _settle(answer, event)

    def worker_ended(self, why: str, status: Callable[[], EngineStatus]) -> None:
        """Handles the worker's end: nothing is held, pending requests are answered."""
        self.use, self.held, self.bounded = None, (), ()
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            _settle(answer, status())
        _fail(self._freeing, f"{why} Its memory came back with it.")

    # --- requests --------------------------------------------------------------------------------

    @property
    def is_freeing(self) -> bool:
        return bool(self._freeing)

    def ask_to_free(self, answer: Future[MemoryFreed]) -> None:
        """Requests to free everything before the next run."""
        self._frees.append(answer)

    def next_free(self) -> FreeMemory | None:
        """Returns the command for pending requests, or None; call when nothing runs."""
        if not self._frees:
            return None
        self._freeing, self._frees = self._frees, []
        return FreeMemory(request_id="")

    def fail_frees(self, message: str) -> None:
        """Fails the requests to free memory that have not begun."""
        _fail(self._frees, message)

    def answers(self, request_id: str, answer: Future[EngineStatus]) -> None:
        """Registers the answer for the worker's report with this id."""
        self._asked[request_id] = answer

    # --- idle deadlines --------------------------------------------------------------------------

    def run_began(self) -> None:
        self._idle_since = None
        self._due.clear()

    def run_ended(self) -> None:
        settings = self._settings
        self._idle_since = time.monotonic()
        self._due = {"clean up": settings.idle_cleanup_s}
        if settings.idle_to_ram_s is not None:
            self._due["move to RAM"] = settings.idle_to_ram_s
        if settings.idle_drop_s is not None:
            self._due["drop"] = settings.idle_drop_s

    @property
    def next_deadline(self) -> float | None:
        """Time of the next idle action, in monotonic seconds."""
        if self._idle_since is None or not self._due:
            return None
        return self._idle_since + min(self._due.values())

    def due(self, now: float) -> list[IdleCommand]:
        """Returns the commands that are due; each is returned once."""
        over = [name for name, after_s in self._due.items() if self._is_over(after_s, now)]
        commands = []
        for name in over:
            command = self._for_idle(name, self._due.pop(name))
            commands += [command] if command else []
        return commands

    def _is_over(self, after_s: float, now: float) -> bool:
        return self._idle_since is not None and now >= self._idle_since + after_s

    def _for_idle(self, name: str, after_s: float) -> IdleCommand | None:
        if name == "clean up":
            return CleanUp()
        reason = f"nothing has happened for {after_s:g} seconds"
        idle = [item for item in self.held if not item.pinned]
        if name == "drop":
            keys = tuple(item.key for item in idle)
            return DropComponents(keys=keys, reason=reason) if keys else None
        if self.budgets is None or not self.budgets.ram_bytes:
            return None
        keys = tuple(item.key for item in idle if item.place == "device" and item.weight_bytes)
        return MoveToRam(keys=keys, reason=reason) if keys else None


def _settle(answer: Future[Answer], value: Answer) -> None:
    if not answer.done():
        answer.set_result(value)


def _fail(frees: list[Future[MemoryFreed]], message: str) -> None:
    for answer in frees:
        if not answer.done():
            answer.set_exception(WorkerDied(message))
    frees.clear()
