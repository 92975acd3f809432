"""An LRU cache bounded in bytes; free of torch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """Holds values by key; evicts the least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._values: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def items(self) -> list[tuple[str, Value]]:
        """Returns keys and values, the least recently used first; does not count as use."""
        return [(key, value) for key, (value, _) in self._values.items()]

    def get(self, key: str) -> Value | None:
        """Returns the value or None; counts as use."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def pop(self, key: str) -> Value | None:
        """Removes and returns the value, or None."""
        value, size_bytes = self._values.pop(key, (None, 0))
        self.held_bytes -= size_bytes
        return value

    def put(self, key: str, value: Value, size_bytes: int) -> None:
        """Stores the value. One larger than the whole cache is ignored and evicts nothing."""
        if size_bytes > self.max_bytes:
            return
        if key in self._values:
            self.held_bytes -= self._values.pop(key)[1]
        self._values[key] = value, size_bytes
        self.held_bytes += size_bytes
        while self.held_bytes > self.max_bytes:
            _, (_, gone_bytes) = self._values.popitem(last=False)
            self.held_bytes -= gone_bytes

    def clear(self) -> None:
        self._values.clear()
        self.held_bytes = 0
