"""A device with memory of its own, as the worker sees one; everything is computed on the CPU."""

from __future__ import annotations

from typing import Any

from app.protocol import Place
from app.worker.device import Device
from app.worker.loading.origins import Origin


class Accelerator(Device):
    """Says that it is an accelerator and notes what is moved to and from it."""

    def __init__(self, total_bytes: int | None = None) -> None:
        """With so much memory; None: as much as the machine has."""
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
            # Memory of its own: a copy, whatever the weights were before.
            for tensor in component.state_dict(keep_vars=True).values():
                tensor.data = tensor.data.clone()
