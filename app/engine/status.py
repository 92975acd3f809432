"""What the engine tells of itself."""

from __future__ import annotations

from typing import Literal

from app.engine.run import RunInfo
from app.protocol import BoundedMemory, Budgets, Departure, HeldComponent, MemoryUse, Message
from app.workflow.models.fit import Room

WorkerState = Literal["starting", "ready", "busy", "restarting", "dead"]


class EngineStatus(Message):
    """What the engine and its worker are doing now."""

    worker: WorkerState
    pid: int | None
    device: str
    device_name: str
    versions: dict[str, str]
    running: RunInfo | None
    queue: tuple[RunInfo, ...]
    memory: MemoryUse | None
    """As last measured by the worker."""
    budgets: Budgets | None
    held: tuple[HeldComponent, ...]
    bounded: tuple[BoundedMemory, ...] = ()
    """The worker's caches beside the components: what each takes and the most it may take."""
    last_departure: Departure | None
    """What left memory last, and why."""

    @property
    def room(self) -> Room | None:
        """What a run may use; None until the worker has told."""
        if self.budgets is None or self.memory is None:
            return None
        budgets = self.budgets
        return Room(budgets.device_bytes, budgets.ram_bytes, self.memory.device_total_bytes)
