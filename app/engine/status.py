"""What the engine tells of itself."""

from __future__ import annotations

from typing import Literal

from app.engine.run import RunInfo
from app.protocol import BoundedMemory, Budgets, Eviction, HeldComponent, MemoryUse, Message
from app.workflow.models.fit import Room

WorkerState = Literal["starting", "ready", "busy", "restarting", "dead"]
STATES: tuple[WorkerState, ...] = ("ready", "busy", "starting", "restarting", "dead")
"""The one a person would rather see first."""


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
    last_departure: Eviction | None
    """What left memory last, and why."""

    @property
    def room(self) -> Room | None:
        """What a run may use; None until the worker has told."""
        if self.budgets is None or self.memory is None:
            return None
        budgets = self.budgets
        return Room(budgets.device_bytes, budgets.ram_bytes, self.memory.device_total_bytes)


class EngineStatus(SlotStatus):
    """What the engine is doing now.

    The fields of a slot are those of the first slot that has a run; where none has one, of the
    first that is ready.
    """

    queue: tuple[RunInfo, ...]
    slots: tuple[SlotStatus, ...] = ()
    """All slots, in the order of the devices."""

    @property
    def room(self) -> Room | None:
        """What a run may use in whichever slot it comes to; None until a worker has told."""
        rooms = [slot.room for slot in self.slots]
        known = [room for room in rooms if room is not None]
        return min(known, key=lambda room: room.device_bytes, default=None)


def status_of(slots: tuple[SlotStatus, ...], queue: tuple[RunInfo, ...]) -> EngineStatus:
    """Returns the status of an engine with these slots and waiting runs."""
    shown = min(slots, key=_rank)
    fields = {name: getattr(shown, name) for name in SlotStatus.model_fields}
    return EngineStatus(**fields, queue=queue, slots=slots)


def _rank(slot: SlotStatus) -> tuple[bool, int]:
    return slot.running is None, STATES.index(slot.worker)
