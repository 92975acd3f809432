"""What the worker has been sent and has not done yet, and by when it has to be. Pure: the time is
passed in, in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Sent:
    key: str
    doing: str
    limit_s: float | None
    """None for what may take as long as it likes."""
    due_at: float | None = None


class Outstanding:
    """Commands in the order in which the worker does them; the clock of the first one runs."""

    def __init__(self) -> None:
        self._sent: list[_Sent] = []

    def add(self, key: str, doing: str, limit_s: float, now: float) -> None:
        """It has been sent. `doing` is said of it: `The worker did not finish …`."""
        self._sent.append(_Sent(key, doing, limit_s))
        if len(self._sent) == 1:
            self._sent[0].due_at = now + limit_s
        else:
            # What is done in idle hours has longer, as long as nobody waits for it.
            self.hurry(now + limit_s)

    def done(self, key: str, now: float) -> None:
        """The worker has told that it did this, and with it everything before."""
        keys = [sent.key for sent in self._sent]
        if key in keys:
            del self._sent[: keys.index(key) + 1]
            if self._sent and self._sent[0].limit_s is not None:
                self._sent[0].due_at = now + self._sent[0].limit_s

    def begun(self, key: str) -> None:
        """The worker is at this one, which from here on may take as long as it likes; everything
        before it is done."""
        keys = [sent.key for sent in self._sent]
        if key in keys:
            del self._sent[: keys.index(key)]
            self._sent[0].limit_s = self._sent[0].due_at = None

    def hurry(self, by: float) -> None:
        """What has a limit has to be done by then, if it had longer."""
        if self._sent and self._sent[0].due_at is not None:
            self._sent[0].due_at = min(self._sent[0].due_at, by)

    def clear(self) -> None:
        """Nobody does it any more: the worker has ended."""
        self._sent.clear()

    @property
    def due_at(self) -> float | None:
        """When the first has to be done; None where nothing has to be."""
        return self._sent[0].due_at if self._sent else None

    @property
    def doing(self) -> str:
        """What the worker is at, as words."""
        return self._sent[0].doing if self._sent else ""
