"""Chooses which runs start in which slots. Pure: held components and time are passed in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class ReadyRun:
    """A run that could start now."""

    run_id: str
    missing_bytes: Mapping[int, int] = field(default_factory=dict)
    """Bytes to load, by slot; no entry for a slot that holds none of its components."""
    passed_over_since: float | None = None
    """When a later run was first started before it; None if none was."""


class Assignment(NamedTuple):
    """Runs to start now."""

    starts: tuple[tuple[str, int], ...]
    """Run ids with their slots."""
    passed_over: frozenset[str]
    """Ids of runs that wait while a later one starts."""


def assign(
    ready: Sequence[ReadyRun], free_slots: Sequence[int], now: float, limit_s: float
) -> Assignment:
    """Returns which of the ready runs (in order) start in the free slots.

    1. A run that has been passed over for `limit_s` goes first.
    2. Then the run and slot with the fewest missing bytes, among slots that hold some component of
       the run.
    3. Then first come, first served, in the first free slot.
    """
    waiting, free = list(ready), list(free_slots)
    starts: list[tuple[str, int]] = []
    while waiting and free:
        overdue = next((run for run in waiting if _is_overdue(run, now, limit_s)), None)
        candidates = waiting if overdue is None else [overdue]
        run, slot = min(
            ((run, slot) for run in candidates for slot in free),
            # (`min` takes the first of equals.)
            key=lambda pair: _missing(*pair),
        )
        starts.append((run.run_id, slot))
        waiting.remove(run)
        free.remove(slot)
    started = {run_id for run_id, _ in starts}
    return Assignment(tuple(starts), _passed_over([run.run_id for run in ready], started))


def missing_bytes(loads: Mapping[str, int] | None, held: Collection[str]) -> int | None:
    """Returns the bytes a slot with the `held` keys would have to load for a run; None if it holds
    none of the run's components, or they are unknown.

    `loads` are the bytes of the run's components, by key.
    """
    if loads is None:
        return None
    missing = {key: size for key, size in loads.items() if key not in held}
    here = sum(loads.values()) - sum(missing.values())
    return sum(missing.values()) if here or not any(loads.values()) else None


def _missing(run: ReadyRun, slot: int) -> tuple[bool, int]:
    missing = run.missing_bytes.get(slot)
    return missing is None, missing or 0


def _is_overdue(run: ReadyRun, now: float, limit_s: float) -> bool:
    since = now if run.passed_over_since is None else run.passed_over_since
    return now - since >= limit_s


def _passed_over(order: Sequence[str], started: Collection[str]) -> frozenset[str]:
    places = [place for place, run_id in enumerate(order) if run_id in started]
    last = max(places, default=0)
    return frozenset(run_id for run_id in order[:last] if run_id not in started)
