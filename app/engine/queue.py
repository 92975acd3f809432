"""Which run goes next: first come, first served. Pure, so that a cleverer order can replace it."""

from __future__ import annotations

from collections.abc import Sequence


def next_run(waiting: Sequence[str]) -> str | None:
    """The id of the run to start now, of those that wait in the order they came."""
    return waiting[0] if waiting else None


def positions(waiting: Sequence[str]) -> dict[str, int]:
    """How many runs go before each of those that wait."""
    return {run_id: position for position, run_id in enumerate(waiting)}
