"""When a worker that ended is started again. Pure: the time is passed in, in monotonic seconds."""

from __future__ import annotations

STARTS_IN_A_ROW = 3
"""So often a worker may fail to come up; then nothing is started until somebody asks."""
STEADY_S = 60.0
"""A worker that ends sooner after it was ready, and has done nothing yet, did not come up."""


class Starts:
    """Counts the starts that failed in a row, and doubles the delay with each."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._failed = 0
        self._not_before = 0.0
        self._ready_at: float | None = None

    @property
    def given_up(self) -> bool:
        """Whether nothing is started until somebody asks."""
        return self._failed >= STARTS_IN_A_ROW

    @property
    def next_at(self) -> float | None:
        """When the next start may be; None where somebody has to ask for it."""
        return None if self.given_up else self._not_before

    def is_ready(self, now: float) -> None:
        """The worker says that it can work."""
        self._ready_at = now

    def has_worked(self) -> None:
        """The worker has done something: it came up, and the starts before are forgiven."""
        self._failed, self._not_before, self._ready_at = 0, 0.0, float("-inf")

    def ended(self, now: float) -> None:
        """The worker has ended, or could not even be made."""
        ready_at, self._ready_at = self._ready_at, None
        if ready_at is not None and now >= ready_at + STEADY_S:
            self._failed, self._not_before = 0, now
        else:
            self._failed += 1
            self._not_before = now + self._delay_s * 2 ** (self._failed - 1)

    def are_hopeless(self) -> None:
        """Another start would fail like the last."""
        self._failed = STARTS_IN_A_ROW

    def try_again(self) -> None:
        """Somebody asks: after giving up there is one more chance, at once."""
        if self.given_up:
            self._failed, self._not_before = STARTS_IN_A_ROW - 1, 0.0
