"""Which run goes next: first come, first served. Pure, so that a cleverer order can replace it."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def next_run(waiting: Sequence[str], unprepared: Collection[str] = ()) -> str | None:
    """The id of the run to start now, of those that wait in the order they came.

    Those whose media or models are not here yet hold up nobody.
    """
    return next((run_id for run_id in waiting if run_id not in unprepared), None)


def positions(waiting: Sequence[str]) -> dict[str, int]:
    """How many runs go before each of those that wait."""
    return {run_id: position for position, run_id in enumerate(waiting)}
