"""A device with its own memory, as the worker sees one; computes on the CPU."""

from __future__ import annotations

from typing import Any

from app.protocol import Place
from app.worker.device import Device
from app.worker.loading.origins import Origin


class Accelerator(Device):
    """Claims to be an accelerator, and records what is moved to and from it."""

    def __init__(self, total_bytes: int | None = None) -> None:
        """`total_bytes` of None is the RAM of the machine."""
        super().__init__("cpu")
        self._total_bytes = total_bytes
        self.moves: list[tuple[str, Place]] = []

    @property
    def is_accelerator(self) -> bool:
        return True

    def free_and_total_bytes(self) -> tuple[int, int]:
        free_bytes, total_bytes = super().free_and_total_bytes()
        return free_bytes, self._total_bytes or total_bytes

    def move(self, component: Any, place: Place, origin: Origin | None = None) -> None:
        self.moves.append((type(component).__name__, place))
        super().move(component, place, origin)
        if place == "device":
            # A copy, since the device has its own memory.
            for tensor in component.state_dict(keep_vars=True).values():
                tensor.data = tensor.data.clone()
