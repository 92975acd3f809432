"""The entry point: `python -m app …`."""

import signal
import sys
from typing import Any

from app.cli import main
from app.signals import BROKEN_OFF, told_to_end


def leave(_number: int, _frame: Any) -> None:
    """Ends the command by SystemExit, so that its resources are closed and cleaned up."""
    raise SystemExit(BROKEN_OFF)


if __name__ == "__main__":
    for number in told_to_end():
        signal.signal(number, leave)
    sys.exit(main())
