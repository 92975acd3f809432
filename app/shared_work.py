"""Work with several waiters: done once, and stopped when the last waiter has left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Generic, TypeVar

from app.errors import Cancelled

T = TypeVar("T")
POLL_S = 0.1
"""How often a wait checks whether it has been stopped."""


class Share(Generic[T]):
    """One piece of work in progress, with its progress in bytes."""

    def __init__(self, key: Hashable, work: Callable[[Share[T]], T]) -> None:
        self.key = key
        self.work = work
        self.result: Future[T] = Future()
        self.waiting = 0
        """Number of waiters. Changed under the lock of `SharedWork`."""
        self.done_bytes = 0
        """Bytes present by now, including those of an earlier download."""
        self.resumed_bytes = 0
        """The part of it that was there before."""
        self.total_bytes: int | None = None

    @property
    def is_unwanted(self) -> bool:
        """True if nobody waits for it any more."""
        return not self.waiting

    def check(self) -> None:
        """Raises Cancelled once nobody waits."""
        if self.is_unwanted:
            raise Cancelled

    def pause(self, seconds: float) -> None:
        """Waits so long. Raises Cancelled once nobody waits."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, POLL_S))
        self.check()


class SharedWork:
    """Work by key, each piece on its own thread. Thread-safe.

    Joining work that is about to stop because all others have left keeps it going.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._going: dict[Hashable, Share[object]] = {}

    def join(self, key: Hashable, work: Callable[[Share[T]], T]) -> Share[T]:
        """Returns the work of this key, started if it is not in progress; each `join` needs one
        `leave`.

        Exceptions of the work go into `result`; Cancelled only where `Share.check` raised it.
        """
        with self._lock:
            share: Share[T] | None = self._going.get(key)  # type: ignore[assignment]
            if share is not None:
                share.waiting += 1
                return share
            share = Share(key, work)
            # (It cannot end, nor find nobody waiting, before the lock is free.)
            share.waiting = 1
            threading.Thread(target=self._do, args=(share,), name="fetch", daemon=True).start()
            self._going[key] = share  # type: ignore[assignment]
            return share

    def results(
        self,
        works: Mapping[Hashable, Callable[[Share[T]], T]],
        *,
        stopped: Callable[[], bool],
        progress: Callable[[Sequence[Share[T]]], None] = lambda _shares: None,
        at_a_time: int = 1,
    ) -> list[T]:
        """Waits for all of this work, a few pieces at a time, and returns what each returned, in
        the order they ended.

        `progress` gets the shares that have begun, ended ones too, whenever it looks and once at
        the end. The first error is raised and the rest is left. Raises Cancelled once `stopped()`.
        """
        results: list[T] = []
        todo = list(works.items())
        begun: list[Share[T]] = []
        going: list[Share[T]] = []
        try:
            while todo or going:
                while todo and len(going) < at_a_time:
                    share = self.join(*todo.pop(0))
                    begun.append(share)
                    going.append(share)
                progress(begun)
                wait([share.result for share in going], POLL_S, FIRST_COMPLETED)
                if stopped():
                    raise Cancelled
                for share in [each for each in going if each.result.done()]:
                    results.append(share.result.result())
                    going.remove(share)
                    self.leave(share)
            progress(begun)
        finally:
            for share in going:
                self.leave(share)
        return results

    def leave(self, share: Share[T]) -> None:
        """Removes a waiter."""
        with self._lock:
            share.waiting -= 1

    def left_bytes(self, but: Collection[Hashable] = ()) -> int:
        """Returns the bytes still to come of all work of known size, without these keys."""
        with self._lock:
            going = [share for key, share in self._going.items() if key not in but]
        return sum((share.total_bytes or share.done_bytes) - share.done_bytes for share in going)

    def _do(self, share: Share[T]) -> None:
        while True:
            share.done_bytes = share.resumed_bytes = 0
            result: T | None = None
            error: BaseException | None = None
            try:
                result = share.work(share)
            except BaseException as raised:  # noqa: BLE001  (whoever waits raises it again)
                error = raised
            with self._lock:
                if isinstance(error, Cancelled) and share.waiting:
                    # A waiter has joined since: continue.
                    continue
                del self._going[share.key]
            break
        if error is None:
            share.result.set_result(result)  # type: ignore[arg-type]
        else:
            share.result.set_exception(error)
