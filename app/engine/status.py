"""What the engine tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from app.engine.run import RunInfo
from app.protocol import BoundedMemory, Budgets, Departure, HeldComponent, MemoryUse, Message
from app.workflow.models.fit import Room

WorkerState = Literal["starting", "ready", "busy", "restarting", "dead"]


class SlotStatus(Message):
    """What one worker is doing now."""

    worker: WorkerState
    pid: int | None
    device: str
    device_name: str
    versions: dict[str, str]
    running: RunInfo | None
    memory: MemoryUse | None
    """As last measured by the worker."""
    budgets: Budgets | None
    held: tuple[HeldComponent, ...]
    bounded: tuple[BoundedMemory, ...] = ()
    """The worker's caches beside the components: what each takes and the most it may take."""
    last_departure: Departure | None
    """What left memory last, and why."""


class EngineStatus(SlotStatus):
    """What the engine is doing now."""

    queue: tuple[RunInfo, ...]

    @property
    def room(self) -> Room | None:
        """What a run may use; None until the worker has told."""
        if self.budgets is None or self.memory is None:
            return None
        budgets = self.budgets
        return Room(budgets.device_bytes, budgets.ram_bytes, self.memory.device_total_bytes)


def status_of(slots: Sequence[SlotStatus], queue: tuple[RunInfo, ...]) -> EngineStatus:
    """Returns the status of an engine with these slots and waiting runs."""
    (slot,) = slots
    return EngineStatus(
        queue=queue, **{name: getattr(slot, name) for name in SlotStatus.model_fields}
    )
