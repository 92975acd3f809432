"""Offload modes: components wait in RAM while others compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple, Protocol

from app.dialect.one_of import OneOf


class Weighed(Protocol):
    """The weights of a step: `app.models.fit.Need`."""

    @property
    def largest_bytes(self) -> int: ...
    @property
    def never_offloaded_bytes(self) -> int: ...


class Way(NamedTuple):
    """One offload mode."""

    at_once_bytes: Callable[[Weighed], int]
    """Bytes of weights on the device at one time."""
    enable: str
    """The worker's function that applies it to a pipeline; see `app.worker.tuning.offload`."""


IN_WORKER = "app.worker.tuning.offload"
OFFLOADS: dict[str, Way] = {
    "model": Way(lambda need: need.largest_bytes, f"{IN_WORKER}:one_component"),
    "sequential": Way(lambda need: need.never_offloaded_bytes, f"{IN_WORKER}:one_layer"),
}
Offload = Annotated[str, OneOf(OFFLOADS)]
"""Components wait in RAM while others compute: one component, or one layer, at a time is on the
device."""
