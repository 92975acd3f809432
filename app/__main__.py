"""`python -m app …`"""

import signal
import sys
from typing import Any

from app.cli import main


def leave(_number: int, _frame: Any) -> None:
    """Ends the command by SystemExit, so that what it has begun is closed and tidied away."""
    raise SystemExit(130)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup a closed terminal ends nothing.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    sys.exit(main())
