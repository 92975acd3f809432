"""Commands sent to the worker and not done yet, with their deadlines. Pure: the time is passed in,
in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass

from app.protocol import CleanUp, DropComponents, FreeMemory, MoveToRam, PinComponent
from app.settings import EngineSettings

Order = FreeMemory | PinComponent | DropComponents | MoveToRam | CleanUp
"""A command that is not about a run."""

DOING: dict[type[Order], str] = {
    FreeMemory: "freeing memory",
    PinComponent: "pinning a component",
    DropComponents: "dropping components",
    MoveToRam: "moving components to RAM",
    CleanUp: "cleaning up",
}
"""Descriptions for users of a worker that does not answer."""
STARTING = "starting"
GAPS_OF_GRACE = 3
"""Grace period as a multiple of the longest gap between cancel points."""
RELOADED = "What it had loaded will be loaded again."


@dataclass
class _Sent:
    key: str
    doing: str
    limit_s: float | None
    """None for no limit."""
    due_at: float | None = None


class Outstanding:
    """Commands in the order in which the worker does them; only the first one's clock runs."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._sent: list[_Sent] = []
        self._longest_gap_s = 0.0

    # --- commands and events ---------------------------------------------------------------------

    def started(self, now: float) -> None:
        """Begins with a new worker, which has to become ready."""
        self._sent, self._longest_gap_s = [], 0.0
        self._add(_Sent(STARTING, STARTING, self._settings.start_limit_s), now)

    def is_ready(self, now: float) -> None:
        self.done(STARTING, now)

    def sent_run(self, run_id: str, now: float) -> None:
        """Notes a sent run, which has to begin."""
        self._add(_Sent(run_id, "about to begin a run", self._settings.command_limit_s), now)

    def sent(self, order: Order, now: float) -> None:
        """Notes a sent command, which will be answered with its id."""
        idle = isinstance(order, CleanUp)
        limit_s = self._settings.cleanup_limit_s if idle else self._settings.command_limit_s
        self._add(_Sent(order.request_id, DOING[type(order)], limit_s), now)

    def _add(self, sent: _Sent, now: float) -> None:
        self._sent.append(sent)
        if len(self._sent) == 1:
            self._start_clock(now)
        elif self._sent[0].doing == DOING[CleanUp]:
            # A clean-up has a long limit, but only while nothing waits behind it.
            self._hurry(now + self._settings.command_limit_s)

    def done(self, key: str, now: float) -> None:
        """Removes a done command, and all before it."""
        keys = [sent.key for sent in self._sent]
        if key in keys:
            del self._sent[: keys.index(key) + 1]
            self._start_clock(now)

    def begun(self, run_id: str) -> None:
        """Notes that the worker has begun this run, which has no limit; removes all before it."""
        keys = [sent.key for sent in self._sent]
        if run_id in keys:
            del self._sent[: keys.index(run_id)]
            self._sent[0].limit_s = self._sent[0].due_at = None

    def gap(self, seconds: float) -> None:
        self._longest_gap_s = max(self._longest_gap_s, seconds)

    def clear(self) -> None:
        self._sent.clear()

    def cancelled(self, now: float) -> None:
        """Limits the present command to the grace period of a cancel, except a start."""
        if self._sent and self._sent[0].doing != STARTING:
            self._hurry(now + self.grace_s)

    def _start_clock(self, now: float) -> None:
        if self._sent and (limit_s := self._sent[0].limit_s) is not None:
            self._sent[0].due_at = now + limit_s

    def _hurry(self, by: float) -> None:
        if self._sent[0].due_at is not None:
            self._sent[0].due_at = min(self._sent[0].due_at, by)

    # --- deadlines -------------------------------------------------------------------------------

    @property
    def grace_s(self) -> float:
        """Grace period of a cancel."""
        longest_s = min(GAPS_OF_GRACE * self._longest_gap_s, self._settings.cancel_grace_limit_s)
        return max(self._settings.cancel_grace_s, longest_s)

    def kill_at(self, cancelled_at: float | None) -> float | None:
        """Returns when to kill the worker, given when its run was cancelled; None for never."""
        due_at = self._sent[0].due_at if self._sent else None
        obeyed_by = None if cancelled_at is None else cancelled_at + self.grace_s
        return min((at for at in (due_at, obeyed_by) if at is not None), default=None)

    def why_late(self, now: float) -> str:
        """Returns why the worker is killed now, as sentences for users."""
        due_at = self._sent[0].due_at if self._sent else None
        if due_at is not None and now >= due_at:
            return f"The worker hung while {self._sent[0].doing} and was ended. {RELOADED}"
        return (
            f"The worker did not stop within {self.grace_s:.0f} seconds and was ended. {RELOADED}"
        )
