"""The status of the engine and its slots."""

from __future__ import annotations

from typing import Literal

from app.engine.run import RunInfo
from app.models.fit import Room
from app.protocol import BoundedMemory, Budgets, Eviction, HeldComponent, MemoryUse, Message

WorkerState = Literal["starting", "ready", "busy", "restarting", "dead"]
STATES: tuple[WorkerState, ...] = ("ready", "busy", "starting", "restarting", "dead")
"""In order of preference for the engine's status."""


class SlotStatus(Message):
    worker: WorkerState
    pid: int | None
    device: str
    device_name: str
    versions: dict[str, str]
    running: RunInfo | None
    memory: MemoryUse | None
    """The worker's last measurement."""
    budgets: Budgets | None
    held: tuple[HeldComponent, ...]
    bounded: tuple[BoundedMemory, ...] = ()
    """The worker's caches beside the components."""
    last_departure: Eviction | None

    @property
    def room(self) -> Room | None:
        """Memory a run may use; None until the worker has reported."""
        if self.budgets is None or self.memory is None:
            return None
        budgets = self.budgets
        return Room(budgets.device_bytes, budgets.ram_bytes, self.memory.device_total_bytes)


class EngineStatus(SlotStatus):
    """Status of the engine.

    The inherited fields are those of the first slot with a run, else of the first ready slot.
    """

    queue: tuple[RunInfo, ...]
    slots: tuple[SlotStatus, ...] = ()
    """In the order of the devices."""
    runs: tuple[RunInfo, ...] = ()
    """The newest runs of the history; only `/status` fills it in."""

    @property
    def is_busy(self) -> bool:
        """Whether a run is active or waiting."""
        return bool(self.queue) or any(slot.running for slot in self.slots)

    @property
    def room(self) -> Room | None:
        """Memory a run may use in any slot; None until a worker has reported."""
        rooms = [slot.room for slot in self.slots]
        known = [room for room in rooms if room is not None]
        return min(known, key=lambda room: room.device_bytes, default=None)


def status_of(slots: tuple[SlotStatus, ...], queue: tuple[RunInfo, ...]) -> EngineStatus:
    shown = min(slots, key=_rank)
    fields = {name: getattr(shown, name) for name in SlotStatus.model_fields}
    return EngineStatus(**fields, queue=queue, slots=slots)


def _rank(slot: SlotStatus) -> tuple[bool, int]:
    return slot.running is None, STATES.index(slot.worker)
