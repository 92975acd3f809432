"""Warns when memory grows between runs of one workflow: a leak."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from app.protocol import MemoryUse
from app.workflow.plan import Plan

MAX_WORKFLOWS = 1000

log = logging.getLogger(__name__)


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
