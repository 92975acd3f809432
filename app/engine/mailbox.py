"""Calls for the engine's thread, in the order they came; every one that was taken is made."""

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
    """Filled from any thread, emptied by one. Putting something in never waits."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        # Taken again by a signal's handler that posts while the same thread is posting.
        self._putting = threading.RLock()
        self._closed = False

    def post(self, call: Call) -> bool:
        """Have this called; False where the mailbox is closed and it never will be."""
        with self._putting:
            if not self._closed:
                self._calls.put(call)
            return not self._closed

    def ask(self, function: Callable[[], Answer]) -> Answer:
        """Call this on the other thread and wait for its answer. Raises what it raises."""
        answer: Future[Answer] = Future()
        self.answer(answer, lambda: answer.set_result(function()))
        return answer.result()

    def answer(self, answer: Future[Answer], call: Call) -> None:
        """Have this called, which answers now or later; what it raises is the answer too."""

        def guarded() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001  (it is the asker's, whatever it is)
                if not answer.done():
                    answer.set_exception(error)

        if not self.post(guarded):
            answer.set_exception(EngineClosed("The engine has been closed."))

    def take(self, timeout_s: float | None) -> Call | None:
        """The next call; None where none came in time."""
        try:
            return self._calls.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> Iterator[Call]:
        """Take no more; the calls that are left, so that nobody waits for an answer for ever."""
        with self._putting:
            self._closed = True
        while not self._calls.empty():
            yield self._calls.get()
