"""The signals by which a command is told to end."""

from __future__ import annotations

import signal

BROKEN_OFF = 130
"""The exit code of what a signal broke off."""


def told_to_end() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP of a closed terminal, which under nohup ends nothing."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]
