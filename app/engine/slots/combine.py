"""Combines the answers of several slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from app.engine.slots.slot import WorkerSlot
from app.protocol import MemoryFreed, MemoryUse

Whole = TypeVar("Whole")


def gather(
    parts: Sequence[Future[Any]], answer: Future[Whole], combine: Callable[[], Whole]
) -> None:
    """Sets `answer` to `combine()` when all parts are done; if all failed, to the first error."""
    left = len(parts)

    def one_is_done(_part: Future[Any]) -> None:
        nonlocal left
        left -= 1
        if left or answer.done():
            return
        errors = [part.exception() for part in parts]
        try:
            if errors[0] is not None and None not in errors:
                raise errors[0]
            answer.set_result(combine())
        except BaseException as error:  # noqa: BLE001  (passed on to the caller)
            answer.set_exception(error)

    for part in parts:
        part.add_done_callback(one_is_done)


def combined_freed(parts: Sequence[tuple[WorkerSlot, Future[MemoryFreed]]]) -> MemoryFreed:
    """Returns one report for all slots that have freed memory; at least one must have."""
    freed = [(slot.device, part.result()) for slot, part in parts if part.exception() is None]
    if len(freed) == 1:
        return freed[0][1]
    return MemoryFreed(
        request_id="",
        before=combined_memory([(device, each.before) for device, each in freed]),
        after=combined_memory([(device, each.after) for device, each in freed]),
        seconds=max(each.seconds for _, each in freed),
        dropped=tuple(item for _, each in freed for item in each.dropped),
    )


def combined_memory(uses: Sequence[tuple[str, MemoryUse]]) -> MemoryUse:
    """Returns the memory use of several workers, given with their devices.

    Figures of a device or the machine count once, as measured last.
    """
    devices = dict(uses).values()
    last = uses[-1][1]
    return MemoryUse(
        device_bytes=sum(use.device_bytes for _, use in uses),
        device_reserved_bytes=sum(use.device_reserved_bytes for _, use in uses),
        device_driver_bytes=sum(use.device_driver_bytes for use in devices),
        device_free_bytes=sum(use.device_free_bytes for use in devices),
        device_total_bytes=sum(use.device_total_bytes for use in devices),
        resident_bytes=sum(use.resident_bytes for _, use in uses),
        anonymous_bytes=sum(use.anonymous_bytes for _, use in uses),
        ram_free_bytes=last.ram_free_bytes,
        ram_total_bytes=last.ram_total_bytes,
    )
