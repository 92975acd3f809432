"""What was used last, within a bound of bytes; free of torch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Kept = TypeVar("Kept")


class Recent(Generic[Kept]):
    """Keeps things by key; for room the least recently used leaves first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def items(self) -> list[tuple[str, Kept]]:
        """What is kept with its keys, the least recently used first; this is no use of it."""
        return [(key, thing) for key, (thing, _) in self._kept.items()]

    def get(self, key: str) -> Kept | None:
        """What is kept under the key, which counts as a use; None when nothing is."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def take(self, key: str) -> Kept | None:
        """What is kept under the key, and is so no longer; None when nothing is."""
        thing, size_bytes = self._kept.pop(key, (None, 0))
        self.held_bytes -= size_bytes
        return thing

    def keep(self, key: str, thing: Kept, size_bytes: int) -> None:
        """Keep this in place of what the key had.

        What alone is larger than the bound is not kept, and nothing leaves for it.
        """
        if size_bytes > self.max_bytes:
            return
        if key in self._kept:
            self.held_bytes -= self._kept.pop(key)[1]
        self._kept[key] = thing, size_bytes
        self.held_bytes += size_bytes
        while self.held_bytes > self.max_bytes:
            _, (_, gone_bytes) = self._kept.popitem(last=False)
            self.held_bytes -= gone_bytes

    def clear(self) -> None:
        """Let everything go."""
        self._kept.clear()
        self.held_bytes = 0
