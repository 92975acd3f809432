"""Restart policy of a worker. Pure: the time is passed in, in monotonic seconds."""

from __future__ import annotations

STARTS_IN_A_ROW = 3
"""Failed starts before giving up until the next request."""
STEADY_S = 60.0
"""A worker that ends earlier, without any work done, counts as a failed start."""


class Starts:
    """Counts consecutive failed starts, and doubles the delay with each."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._failed = 0
        self._not_before = 0.0
        self._ready_at: float | None = None

    @property
    def given_up(self) -> bool:
        """True if nothing is started until the next request."""
        return self._failed >= STARTS_IN_A_ROW

    @property
    def next_at(self) -> float | None:
        """Earliest time of the next start; None after giving up."""
        return None if self.given_up else self._not_before

    def is_ready(self, now: float) -> None:
        self._ready_at = now

    def has_worked(self) -> None:
        """Notes that the worker has done some work, and resets the count."""
        self._failed, self._not_before, self._ready_at = 0, 0.0, float("-inf")

    def ended(self, now: float) -> None:
        ready_at, self._ready_at = self._ready_at, None
        if ready_at is not None and now >= ready_at + STEADY_S:
            self._failed, self._not_before = 0, now
        else:
            self._failed += 1
            self._not_before = now + self._delay_s * 2 ** (self._failed - 1)

    def give_up(self) -> None:
        """Gives up: another start would fail too."""
        self._failed = STARTS_IN_A_ROW

    def try_again(self) -> None:
        """Allows one start at once, after giving up."""
        if self.given_up:
            self._failed, self._not_before = STARTS_IN_A_ROW - 1, 0.0
