"""Limits one guest's share of the requests that are answered at a time."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from app.errors import TooManyCalls


class Crowd:
    """Counts the open requests of each guest; for one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def check(self, person: str) -> None:
        """Raises TooManyCalls for a guest with too many open requests. An operator's name is
        empty."""
        if person and self._open[person] >= self._most:
            raise TooManyCalls(
                f"{self._most} of your requests are open already.",
                hint="Try again when some are answered.",
            )

    @contextlib.contextmanager
    def counted(self, person: str) -> Iterator[None]:
        """Counts a request that is open inside."""
        self._open[person] += 1
        try:
            yield
        finally:
            self._open[person] -= 1
            if not self._open[person]:
                del self._open[person]
