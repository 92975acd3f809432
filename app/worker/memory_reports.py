"""Reports to the engine what is held, and its memory use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from app.dialect.plan import Plan
from app.protocol import BoundedMemory, Event, MemoryReported, MemoryUse
from app.worker.device import Device
from app.worker.guards import optional_work
from app.worker.lru_cache import LruCache
from app.worker.placement import Placement
from app.worker.residency import Residency

log = logging.getLogger(__name__)


class MemoryReports:
    """Measures memory, and reports it with everything that is held between runs."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        device: Device,
        placement: Placement,
        residency: Residency,
        caches: Mapping[str, LruCache[Any]],
    ) -> None:
        self._emit = emit
        self._device = device
        self._placement = placement
        self._residency = residency
        self._caches = caches
        """Caches beside the held components, by name."""
        self.last = device.memory()
        self.device_is_lost = False
        """True if the accelerator no longer answers. CUDA never recovers within a process, so
        everything held is lost."""

    def measure(self) -> None:
        """Measures memory for the next report; keeps the last measurement if that fails."""
        is_measured = False
        with optional_work("Memory could not be measured"):
            self.last = self._device.memory()
            is_measured = True
        self.device_is_lost = self._device.is_accelerator and not is_measured

    def report(self, request_id: str = "") -> None:
        """Reports what is held, the budgets, and the last measurement."""
        self._emit(
            MemoryReported(
                request_id=request_id,
                memory=self.last,
                budgets=self._placement.budgets,
                held=self._residency.described(),
                bounded=tuple(
                    BoundedMemory(name=name, held_bytes=cache.held_bytes, max_bytes=cache.max_bytes)
                    for name, cache in self._caches.items()
                ),
                last_eviction=self._residency.last_eviction,
            )
        )


# --- growth ---------------------------------------------------------------------------------------

MAX_WORKFLOWS = 1000


class Growth:
    """Memory use and held keys after the last run of each workflow."""

    def __init__(self, warning_bytes: int) -> None:
        self._warning_bytes = warning_bytes
        self._last: dict[str, tuple[MemoryUse, frozenset[str]]] = {}

    def note(self, plan: Plan, memory: MemoryUse, keys: Iterable[str]) -> None:
        """Records memory and held keys after a run, and warns of growth.

        Runs between which components were loaded or dropped are not compared.
        """
        held = frozenset(keys)
        last, held_then = self._last.pop(plan.workflow_path, (None, held))
        self._last[plan.workflow_path] = memory, held
        if len(self._last) > MAX_WORKFLOWS:
            del self._last[next(iter(self._last))]
        if last is None or held != held_then:
            return
        for what, grown_bytes in (
            ("Device", memory.device_bytes - last.device_bytes),
            ("Process", memory.resident_bytes - last.resident_bytes),
        ):
            if grown_bytes > self._warning_bytes:
                log.warning(
                    "%s memory grew by %.0f MB between two runs of '%s'",
                    what,
                    grown_bytes / 1e6,
                    plan.workflow_id,
                )

    def forget(self) -> None:
        self._last.clear()
