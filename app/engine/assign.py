"""Which run goes next, and to which slot. Pure: what is held and the time are passed in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class ReadyRun:
    """A run that could start now."""

    run_id: str
    missing_bytes: Mapping[int, int] = field(default_factory=dict)
    """By slot, what would have to be loaded there; no entry for a slot that holds nothing of it."""
    passed_over_since: float | None = None
    """When a later run was first started before it; None: none was."""


class Assignment(NamedTuple):
    """What is to be started now."""

    starts: tuple[tuple[str, int], ...]
    """Runs with their slots."""
    passed_over: frozenset[str]
    """Runs that go on waiting while a later one is started."""


def assign(
    ready: Sequence[ReadyRun], free_slots: Sequence[int], now: float, limit_s: float
) -> Assignment:
    """Returns which of the ready runs, in the order they came, start in the free slots.

    First come, first served, except that a run goes before earlier ones where a free slot holds
    something of what it loads: the one that misses the fewest bytes first. A run that has been
    passed over for `limit_s` goes before all later ones. Of slots that are equal for a run it takes
    the first.
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
    """Returns the bytes that a slot which holds these components would load for a run; None where
    it holds nothing of what the run loads, or that is not known.

    `loads` are the bytes of all components that the run loads, by their keys.
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
