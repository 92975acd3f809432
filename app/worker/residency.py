"""The table of held components; free of torch.

A leased entry cannot be evicted. Each eviction has a reason, which is logged and shown. A pure
function chooses what to evict.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.protocol import Eviction, HeldComponent, Place

if TYPE_CHECKING:
    from app.worker.loading.origins import Origin

log = logging.getLogger(__name__)

MAX_WORKFLOWS = 1000
"""Workflows whose component keys are remembered."""
LEAST_RELOAD_S = 0.001
"""Floor for reload time; keeps the eviction cost finite."""


@dataclass
class Entry:
    key: str
    title: str
    component: Any
    weight_bytes: int
    place: Place = "device"
    origin: Origin | None = None
    """Where its weights are in files; None if it has none there."""
    file_backed_bytes: int = 0
    """Weights that are mapped file pages, which the operating system reclaims when needed."""
    shell_bytes: int = 0
    """Size without its weights."""
    load_s: float = 0.0
    """Seconds its load took; the estimate for a reload."""
    last_used: float = 0.0
    """Unix seconds."""
    used_by: set[str] = field(default_factory=set)
    leases: int = 0
    pinned: bool = False
    memoised: bool = False
    """True if its last result is memoised, so that a repeat does not need it."""

    def bytes_in(self, place: Place) -> int:
        """Returns the bytes it takes of this place's budget; file pages do not count as RAM."""
        if place != self.place:
            return 0
        return self.weight_bytes - (self.file_backed_bytes if place == "ram" else 0)

    @property
    def private_bytes(self) -> int:
        """Returns the bytes it takes in RAM beside file pages."""
        return self.weight_bytes - (self.origin.size_bytes if self.origin else 0)


def choose_evictions(
    entries: Iterable[Entry],
    missing_bytes: int,
    place: Place,
    now: float,
    needed_later: Sequence[str] = (),
) -> list[str]:
    """Returns the keys to evict from this place to free `missing_bytes`, in order.

    1. Text encoders whose last prompt is memoised: a repeat does not need them.
    2. The others by idle time x bytes freed / reload time, the highest first.
    3. What later steps of the active run need, the last needed first.

    Leased and pinned entries are never chosen, nor those that would free nothing. When all the
    others are not enough, all of them are chosen.
    """
    later = {key: position for position, key in enumerate(needed_later)}

    def order(entry: Entry) -> tuple[int, bool, float]:
        given_back = entry.bytes_in(place)
        worth = (now - entry.last_used) * given_back / max(entry.load_s, LEAST_RELOAD_S)
        return -later.get(entry.key, len(later)), not entry.memoised, -worth

    chosen: list[str] = []
    for entry in sorted(entries, key=order):
        if missing_bytes <= 0:
            break
        if entry.leases == 0 and not entry.pinned and entry.bytes_in(place) > 0:
            chosen.append(entry.key)
            missing_bytes -= entry.bytes_in(place)
    return chosen


class WorkflowUses:
    """The component keys each workflow used, to find those a changed workflow no longer uses."""

    def __init__(self) -> None:
        self._hashes: dict[str, str] = {}
        self._keys: dict[str, set[str]] = {}

    def begin(self, path: str, workflow_hash: str, keys: Collection[str]) -> set[str] | None:
        """Records a run. Returns the keys that a changed workflow no longer uses and no other
        workflow does; None when the workflow is new or unchanged."""
        changed = path in self._hashes and self._hashes[path] != workflow_hash
        before = self._keys.pop(path, set())
        self._hashes.pop(path, None)
        # The least recently run workflow is forgotten: a new one has no stale keys.
        while len(self._hashes) >= MAX_WORKFLOWS:
            oldest = next(iter(self._hashes))
            del self._hashes[oldest], self._keys[oldest]
        self._hashes[path] = workflow_hash
        self._keys[path] = set(keys) if changed else before | set(keys)
        if not changed:
            return None
        return before - set().union(*self._keys.values())

    def drop_stale(
        self, residency: Residency, path: str, workflow_hash: str, keys: Collection[str]
    ) -> None:
        """Records a run and drops the components that its changed workflow no longer uses."""
        stale = self.begin(path, workflow_hash, keys)
        if stale is None:
            return
        if held := [key for key in stale if key in residency]:
            log.info("Workflow file changed - reloading models...")
            residency.drop(held, reason="the changed workflow no longer uses it")
        else:
            log.info("Workflow file changed - nothing to reload")


class Residency:
    """All held components, by key."""

    def __init__(
        self,
        on_evict: Callable[[Entry], None] = lambda _entry: None,
        on_move: Callable[[Entry], None] = lambda _entry: None,
    ) -> None:
        self._on_evict = on_evict
        """Called with every dropped entry."""
        self._on_move = on_move
        """Called with every entry that moves to another place."""
        self._entries: dict[str, Entry] = {}
        self.last_eviction: Eviction | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries.values())

    def bytes_in(self, place: Place) -> int:
        """Returns the bytes all entries take of this place's budget."""
        return sum(entry.bytes_in(place) for entry in self.entries)

    def hold(self, entry: Entry) -> None:
        entry.last_used = time.time()
        self._entries[entry.key] = entry

    @contextlib.contextmanager
    def lease(self, keys: Collection[str], workflow_id: str) -> Iterator[dict[str, Any]]:
        """Yields the components of these keys, by key; none can be dropped inside."""
        leased = [self._entries[key] for key in keys]
        for entry in leased:
            entry.leases += 1
            entry.used_by.add(workflow_id)
        try:
            yield {entry.key: entry.component for entry in leased}
        finally:
            for entry in leased:
                entry.leases -= 1
                entry.last_used = time.time()

    def pin(self, key: str, pinned: bool) -> None:
        """Pins or unpins the entry, if it is held."""
        if key in self._entries:
            self._entries[key].pinned = pinned

    def note_memoised(self, keys: Collection[str]) -> None:
        """Marks these entries, and no others, as memoised."""
        for entry in self.entries:
            entry.memoised = entry.key in keys

    def drop(self, keys: Collection[str], reason: str) -> tuple[HeldComponent, ...]:
        """Drops these entries, and logs why. Raises RuntimeError for a leased one."""
        gone = [self._entries[key] for key in keys if key in self._entries]
        self._refuse_leased(gone)
        described = tuple(_described(entry) for entry in gone)
        for entry in gone:
            log.info("Dropping %s: %s", entry.title, reason)
            del self._entries[entry.key]
            self._on_evict(entry)
        self._note(gone, "dropped", reason)
        return described

    def move(self, keys: Collection[str], place: Place, reason: str) -> None:
        """Records the new place of these entries. Raises RuntimeError for a leased one."""
        moved = [self._entries[key] for key in keys]
        self._refuse_leased(moved)
        for entry in moved:
            log.info("Moving %s to %s: %s", entry.title, place, reason)
            self._on_move(entry)
            entry.place = place
            in_ram = entry.origin if place == "ram" else None
            entry.file_backed_bytes = in_ram.size_bytes if in_ram else 0
        if place == "ram":
            self._note(moved, "moved to RAM", reason)

    def described(self) -> tuple[HeldComponent, ...]:
        """Returns a description of every entry, for the status page."""
        return tuple(_described(entry) for entry in self.entries)

    def _note(self, gone: Sequence[Entry], what: str, reason: str) -> None:
        if gone:
            titles = tuple(entry.title for entry in gone)
            self.last_eviction = Eviction(time=time.time(), titles=titles, what=what, reason=reason)

    @staticmethod
    def _refuse_leased(entries: Iterable[Entry]) -> None:
        if leased := [entry.title for entry in entries if entry.leases]:
            raise RuntimeError(f"in use and cannot be dropped: {', '.join(leased)}")


def _described(entry: Entry) -> HeldComponent:
    return HeldComponent(
        key=entry.key,
        title=entry.title,
        place=entry.place,
        weight_bytes=entry.weight_bytes,
        file_backed_bytes=entry.file_backed_bytes,
        load_s=entry.load_s,
        last_used=entry.last_used,
        used_by=tuple(sorted(entry.used_by)),
        pinned=entry.pinned,
    )
