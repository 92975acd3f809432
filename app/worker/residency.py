"""What is held, by what it is; free of torch.

One table of entries. An entry is taken with `lease()` and cannot leave while leased; it leaves only
for a reason, which is logged and shown. What has to leave is decided by a pure function.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.protocol import Departure, HeldComponent, Place

if TYPE_CHECKING:
    from app.worker.loading.origins import Origin

log = logging.getLogger(__name__)

MAX_WORKFLOWS = 1000
"""Of so many it is known what they used."""
LEAST_RELOAD_S = 0.001
"""Nothing comes back faster: what took no time at all must not look infinitely cheap."""


@dataclass
class Entry:
    """One held component."""

    key: str
    title: str
    component: Any
    weight_bytes: int
    place: Place = "device"
    origin: Origin | None = None
    """Where in files its weights are; None: it has none, or they are in no file."""
    file_backed_bytes: int = 0
    """Of its weights, those that are pages of their file: the machine takes them back at will."""
    shell_bytes: int = 0
    """What is left of it without its weights."""
    load_s: float = 0.0
    """What it cost to load it, so what it will cost to bring it back."""
    last_used: float = 0.0
    """Unix seconds."""
    used_by: set[str] = field(default_factory=set)
    leases: int = 0
    pinned: bool = False
    memoised: bool = False
    """Whether what its last call returned is remembered: a repeat can do without it."""

    def bytes_in(self, place: Place) -> int:
        """What it takes of the budget of this place.

        Pages of a file are not counted as RAM in use, but the device computes with every byte.
        """
        if place != self.place:
            return 0
        return self.weight_bytes - (self.file_backed_bytes if place == "ram" else 0)

    @property
    def private_bytes(self) -> int:
        """What it takes of the machine's memory when it lies in RAM: its weights in no file."""
        return self.weight_bytes - (self.origin.size_bytes if self.origin else 0)


def choose_evictions(
    entries: Iterable[Entry],
    missing_bytes: int,
    place: Place,
    now: float,
    needed_later: Sequence[str] = (),
) -> list[str]:
    """Keys of what has to leave this place to give `missing_bytes` back, the first first.

    First the text encoders whose last prompt is remembered: the same prompt needs them no more and
    another one needs them once. Then the least recently used, weighed by what leaving gives and
    coming back costs: an entry goes before another when it has been idle for longer per second and
    byte of its return. What the run in progress needs in a later step goes last, what it needs last
    first. Never a leased entry or a
    pinned one, nor one that would give nothing back. When all of them together are not enough they
    are all chosen.
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
    """Which keys each workflow used, to tell what a changed workflow leaves behind."""

    def __init__(self) -> None:
        self._hashes: dict[str, str] = {}
        self._keys: dict[str, set[str]] = {}

    def begin(self, path: str, workflow_hash: str, keys: Collection[str]) -> set[str] | None:
        """Note a run; None when the workflow is new or unchanged, else the keys to drop.

        A changed workflow drops what neither its new version nor another workflow uses.
        """
        changed = path in self._hashes and self._hashes[path] != workflow_hash
        before = self._keys.pop(path, set())
        self._hashes.pop(path, None)
        # The workflow that was not run for longest is forgotten: of a new one nothing is stale.
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
        """Note a run, and drop what its workflow has left behind since it was changed."""
        stale = self.begin(path, workflow_hash, keys)
        if stale is None:
            return
        if held := [key for key in stale if key in residency]:
            log.info("Workflow file changed - reloading models...")
            residency.drop(held, reason="the changed workflow no longer uses it")
        else:
            log.info("Workflow file changed - nothing to reload")


class Residency:
    """The table of everything held."""

    def __init__(self, let_go: Callable[[Entry], None] = lambda _entry: None) -> None:
        self._let_go = let_go
        """Called with every entry that leaves."""
        self._entries: dict[str, Entry] = {}
        self.last_departure: Departure | None = None
        """What left last, and why."""

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in the order they came."""
        return tuple(self._entries.values())

    def bytes_in(self, place: Place) -> int:
        """What everything held takes of this place's budget."""
        return sum(entry.bytes_in(place) for entry in self.entries)

    def hold(self, entry: Entry) -> None:
        """Take a component that has just been loaded."""
        entry.last_used = time.time()
        self._entries[entry.key] = entry

    @contextlib.contextmanager
    def lease(self, keys: Collection[str], workflow_id: str) -> Iterator[dict[str, Any]]:
        """The components of these keys, by key; they cannot be dropped inside."""
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
        """Keep this until somebody says otherwise or memory is freed; of nothing held, nothing."""
        if key in self._entries:
            self._entries[key].pinned = pinned

    def note_memoised(self, keys: Collection[str]) -> None:
        """Of these, and of no others, the last call's result is remembered."""
        for entry in self.entries:
            entry.memoised = entry.key in keys

    def drop(self, keys: Collection[str], reason: str) -> tuple[HeldComponent, ...]:
        """Let these go, and say why. Raises RuntimeError for a leased one."""
        gone = [self._entries[key] for key in keys if key in self._entries]
        self._refuse_leased(gone)
        described = tuple(_described(entry) for entry in gone)
        for entry in gone:
            log.info("Dropping %s: %s", entry.title, reason)
            del self._entries[entry.key]
            self._let_go(entry)
        self._note(gone, "dropped", reason)
        return described

    def move(self, keys: Collection[str], place: Place, reason: str) -> None:
        """Note that these are elsewhere now. Raises RuntimeError for a leased one."""
        moved = [self._entries[key] for key in keys]
        self._refuse_leased(moved)
        for entry in moved:
            log.info("Moving %s to %s: %s", entry.title, place, reason)
            entry.place = place
            in_ram = entry.origin if place == "ram" else None
            entry.file_backed_bytes = in_ram.size_bytes if in_ram else 0
        if place == "ram":
            self._note(moved, "moved to RAM", reason)

    def described(self) -> tuple[HeldComponent, ...]:
        """What is held, for the status page."""
        return tuple(_described(entry) for entry in self.entries)

    def _note(self, gone: Sequence[Entry], what: str, reason: str) -> None:
        if gone:
            titles = tuple(entry.title for entry in gone)
            self.last_departure = Departure(
                time=time.time(), titles=titles, what=what, reason=reason
            )

    @staticmethod
    def _refuse_leased(entries: Iterable[Entry]) -> None:
        if leased := [entry.title for entry in entries if entry.leases]:
            raise RuntimeError(f"in use and cannot leave: {', '.join(leased)}")


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
