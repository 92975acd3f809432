"""Readers of a run's log of events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from app.engine.loop import EngineLoop
from app.engine.run import Follower, Run
from app.protocol import RunEvent


class LogReader:
    def __init__(self, run: Run, start: int, previews: bool) -> None:
        self._run, self._next, self._previews = run, start, previews
        self._shown: RunEvent | None = None
        self.over = False

    def new(self) -> Iterator[RunEvent]:
        """Yields the events since the last call; of previews only the newest."""
        while self._next < len(self._run.events):
            event = self._run.events[self._next]
            self._next += 1
            yield event
        # The terminal event is the last; a reader that starts behind it is done.
        self.over = self._run.over and self._next >= len(self._run.events)
        preview = self._run.preview if self._previews and not self.over else None
        if preview is not None and preview is not self._shown:
            self._shown = preview
            yield preview


@contextlib.contextmanager
def following(loop: EngineLoop, run: Run, follower: Follower) -> Iterator[None]:
    """Wakes the follower for new events inside."""
    post: Callable[[Callable[[], None]], None] = loop.post
    post(partial(loop.add_follower, run, follower))
    try:
        yield
    finally:
        post(partial(loop.remove_follower, run, follower))
