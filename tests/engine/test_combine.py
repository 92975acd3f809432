"""Combined answers of several slots."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from app.engine.slots.combine import combined_memory, gather
from app.protocol import MemoryUse


def gathered(*outcomes: int | Exception) -> Future[list[int]]:
    """Returns the combined answer of parts that end like this, in this order."""
    parts: list[Future[int]] = [Future() for _ in outcomes]
    answer: Future[list[int]] = Future()
    gather(parts, answer, lambda: [part.result() for part in parts if not part.exception()])
    for part, outcome in zip(parts, outcomes, strict=True):
        assert not answer.done()
        if isinstance(outcome, Exception):
            part.set_exception(outcome)
        else:
            part.set_result(outcome)
    return answer


def test_gather_answers_when_all_parts_are_done_without_those_that_failed():
    assert gathered(1, 2).result(0) == [1, 2]
    assert gathered(ValueError("no"), 2).result(0) == [2]


def test_gather_raises_the_first_error_when_all_parts_failed():
    with pytest.raises(ValueError, match="first"):
        gathered(ValueError("first"), KeyError("second")).result(0)


def test_gather_raises_what_combining_raises():
    part: Future[int] = Future()
    answer: Future[int] = Future()
    gather([part], answer, lambda: 1 // 0)
    part.set_result(1)
    with pytest.raises(ZeroDivisionError):
        answer.result(0)


def used(**fields: int) -> MemoryUse:
    none: dict[str, Any] = dict.fromkeys(MemoryUse.model_fields, 0)
    return MemoryUse(**{**none, **fields})


def test_memory_of_workers_on_one_device_counts_the_device_once():
    one = used(device_bytes=10, device_total_bytes=100, device_free_bytes=60, anonymous_bytes=3)
    two = used(device_bytes=20, device_total_bytes=100, device_free_bytes=50, ram_total_bytes=9)
    together = combined_memory([("cuda:0", one), ("cuda:0", two)])
    assert (together.device_bytes, together.device_total_bytes) == (30, 100)
    assert (together.device_free_bytes, together.anonymous_bytes) == (50, 3)
    assert together.ram_total_bytes == 9
    apart = combined_memory([("cuda:0", one), ("cuda:1", two)])
    assert (apart.device_total_bytes, apart.device_free_bytes) == (200, 110)
