"""The worker's memory as the engine knows it: what is held, who waits for it to change, and when
what is idle has to go. Owned by the engine's thread, as everything of the loop is."""

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
    """What the worker last told of its memory, and everything that waits on it."""

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
        """Who waits for what is held to be changed, by the request's id."""
        self._idle_since: float | None = None
        """Monotonic seconds; None while a run is under way and before the first."""
        self._due: dict[str, float] = {}
        """Seconds of idleness after which something is to be done, by its name."""

    # --- what the worker tells -------------------------------------------------------------------

    def began(self, use: MemoryUse) -> None:
        """A new worker is ready: nothing is held."""
        self.use, self.held, self.bounded = use, (), ()

    def reported(self, event: MemoryReported, status: Callable[[], EngineStatus]) -> None:
        """Take what is held now, and answer who asked for it to be so."""
        if self.budgets is None and self._settings.idle_to_ram_s and not event.budgets.ram_bytes:
            log.warning("DW_IDLE_TO_RAM_S has no effect: there is no accelerator.")
        self.use, self.held, self.bounded = event.memory, event.held, event.bounded
        self.budgets, self.last_eviction = event.budgets, event.last_eviction
        if (asked := self._asked.pop(event.request_id, None)) is not None:
            _settle(asked, status())

    def freed(self, event: MemoryFreed) -> None:
        """Answer everybody for whom memory was freed."""
        answers, self._freeing = self._freeing, []
        self.use = event.after
        for answer in answers:
            _settle(answer, event)

    def gone(self, why: str, status: Callable[[], EngineStatus]) -> None:
        """The worker has ended, and everything it held with it."""
        self.use, self.held, self.bounded = None, (), ()
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            _settle(answer, status())
        _fail(self._freeing, f"{why} Its memory came back with it.")

    # --- what is asked of it ---------------------------------------------------------------------

    @property
    def is_freeing(self) -> bool:
        """Whether the worker is at it."""
        return bool(self._freeing)

    def ask_to_free(self, answer: Future[MemoryFreed]) -> None:
        """Have everything freed before the next run."""
        self._frees.append(answer)

    def next_free(self) -> FreeMemory | None:
        """The command to send now that nothing runs, if anybody has asked for it."""
        if not self._frees:
            return None
        self._freeing, self._frees = self._frees, []
        return FreeMemory(request_id="")

    def fail_frees(self, message: str) -> None:
        """Tell those who wait for a freeing that has not begun that it will not come."""
        _fail(self._frees, message)

    def answers(self, request_id: str, answer: Future[EngineStatus]) -> None:
        """The worker's report with this id will be the answer."""
        self._asked[request_id] = answer

    # --- what idleness does ----------------------------------------------------------------------

    def run_began(self) -> None:
        """Nothing is idle any more."""
        self._idle_since = None
        self._due.clear()

    def run_ended(self) -> None:
        """From now on things are idle."""
        settings = self._settings
        self._idle_since = time.monotonic()
        self._due = {"clean up": settings.idle_cleanup_s}
        if settings.idle_to_ram_s is not None:
            self._due["move to RAM"] = settings.idle_to_ram_s
        if settings.idle_drop_s is not None:
            self._due["drop"] = settings.idle_drop_s

    @property
    def next_deadline(self) -> float | None:
        """Monotonic seconds at which something is to be done, if nothing happens before."""
        if self._idle_since is None or not self._due:
            return None
        return self._idle_since + min(self._due.values())

    def due(self, now: float) -> list[IdleCommand]:
        """What is to be done by now; each is told once."""
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
