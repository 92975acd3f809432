"""A queue of calls for the engine's thread, in order; every accepted call is made."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from app.errors import EngineClosed

Answer = TypeVar("Answer")
Call = Callable[[], None]


class Mailbox:
    """Filled from any thread, emptied by one. Posting never blocks."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        # Reentrant: a signal handler may post while the same thread is posting.
        self._putting = threading.RLock()
        self._closed = False

    def post(self, call: Call) -> bool:
        """Queues the call; returns False if the mailbox is closed."""
        with self._putting:
            if not self._closed:
                self._calls.put(call)
            return not self._closed

    def ask(self, function: Callable[[], Answer]) -> Answer:
        """Calls this on the other thread and returns its result. Raises what it raises."""
        answer: Future[Answer] = Future()
        self.answer(answer, lambda: answer.set_result(function()))
        return answer.result()

    def answer(self, answer: Future[Answer], call: Call) -> None:
        """Queues a call that sets the future now or later; an error of it is set too."""

        def guarded() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001  (passed on to the caller)
                if not answer.done():
                    answer.set_exception(error)

        if not self.post(guarded):
            answer.set_exception(EngineClosed("The engine has been closed."))

    def take(self, timeout_s: float | None) -> Call | None:
        """Returns the next call, or None after the timeout."""
        try:
            return self._calls.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> Iterator[Call]:
        """Closes the mailbox and yields the remaining calls, so that every future is set."""
        with self._putting:
            self._closed = True
        while not self._calls.empty():
            yield self._calls.get()
