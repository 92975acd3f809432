"""The entry point: `python -m app …` in a checkout, `dw …` where it is installed."""

import signal
import sys
from typing import Any

from app.shell import cli
from app.signals import ABORTED, ending_signals


def leave(_number: int, _frame: Any) -> None:
    """Ends the command by SystemExit, so that its resources are closed and cleaned up."""
    raise SystemExit(ABORTED)


def main() -> int:
    """Runs the command; returns the exit code."""
    for number in ending_signals():
        signal.signal(number, leave)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
