"""The signals that end a command."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

ABORTED = 130
"""Exit code of a command aborted by a signal."""


def ending_signals() -> list[signal.Signals]:
    """Returns SIGTERM, and SIGHUP of a closed terminal, except under nohup, which ignores it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


class CtrlC:
    """Handler of the first Ctrl-C: makes a call instead of raising."""

    def __init__(self) -> None:
        self.came = False
        self._call: Callable[[], object] = _nothing

    def calls(self, call: Callable[[], object]) -> None:
        """Sets the call to make when Ctrl-C comes, at once where it has come.

        It is made between two instructions of the main thread, so it must wait for no lock.
        """
        self._call = call
        if self.came:
            self._make()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles SIGINT. Raises KeyboardInterrupt from the second one on."""
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        self._make()

    def _make(self) -> None:
        call, self._call = self._call, _nothing
        call()


@contextlib.contextmanager
def first_ctrl_c() -> Iterator[CtrlC]:
    """Yields the handler of the first Ctrl-C in this block; the second one raises as always.

    A Ctrl-C in a block around this one counts here too, and the other way round. If SIGINT is
    ignored, that stays so. For the main thread only.
    """
    first, before = CtrlC(), signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, first)
    if isinstance(before, CtrlC):
        first.came |= before.came
    try:
        yield first
    finally:
        signal.signal(signal.SIGINT, before)
        if isinstance(before, CtrlC):
            before.came |= first.came


def _nothing() -> None:
    """Does nothing; the call before any is set."""
