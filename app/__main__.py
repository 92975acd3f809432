"""The entry point: `python -m app …`."""

import signal
import sys
from typing import Any

from app.shell.cli import main
from app.signals import ABORTED, ending_signals


def leave(_number: int, _frame: Any) -> None:
    """Ends the command by SystemExit, so that its resources are closed and cleaned up."""
    raise SystemExit(ABORTED)


if __name__ == "__main__":
    for number in ending_signals():
        signal.signal(number, leave)
    sys.exit(main())
