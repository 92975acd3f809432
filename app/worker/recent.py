"""An LRU cache bounded in bytes; free of torch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Kept = TypeVar("Kept")


class Recent(Generic[Kept]):
    """Holds values by key; evicts the least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def items(self) -> list[tuple[str, Kept]]:
        """Returns keys and values, the least recently used first; does not count as use."""
        return [(key, thing) for key, (thing, _) in self._kept.items()]

    def get(self, key: str) -> Kept | None:
        """Returns the value or None; counts as use."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def take(self, key: str) -> Kept | None:
        """Removes and returns the value, or None."""
        thing, size_bytes = self._kept.pop(key, (None, 0))
        self.held_bytes -= size_bytes
        return thing

    def keep(self, key: str, thing: Kept, size_bytes: int) -> None:
        """Stores the value. One larger than the whole cache is ignored and evicts nothing."""
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
        self._kept.clear()
        self.held_bytes = 0
