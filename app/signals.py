"""The signals by which a command is told to end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

BROKEN_OFF = 130
"""The exit code of what a signal broke off."""


def told_to_end() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP of a closed terminal, which under nohup ends nothing."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


class CtrlC:
    """The first Ctrl-C: asks for something instead of raising, at whatever line it comes."""

    def __init__(self) -> None:
        self.came = False
        self._call: Callable[[], object] = _nothing

    def calls(self, call: Callable[[], object]) -> None:
        """Has `call` made when Ctrl-C comes, at once where it has come.

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
    """Gives what the first Ctrl-C of this block does; the second one raises as always.

    Where SIGINT is ignored it stays so. For the main thread only.
    """
    first, before = CtrlC(), signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, first)
    try:
        yield first
    finally:
        signal.signal(signal.SIGINT, before)


def _nothing() -> None:
    """Is what Ctrl-C calls before there is anything to call."""
