"""The whole fuzz, with a server of its own; exit code 1 if anything was wrong.

python -m tests.fuzz [--calls 5000] [--seed 0]
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.harness import Fuzz
from tests.servers import started_server

STATUS_WITHIN_S = 1.0
TRACEBACK = re.compile(r"^.*\n.*Traceback \(most recent call last\):(?:\n(?!\d{4}-).*)*", re.M)
"""With the line before it, up to the next line that has a date."""


def main() -> int:
    """Runs the fuzz against a server of its own and prints what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, started_server(Path(folder)) as server:
        seen = Fuzz(server, STATUS_WITHIN_S).run(options.calls, options.seed)
        tracebacks = TRACEBACK.findall(server.log.read_text())
    for answer, count in sorted(seen.answers.items()):
        print(f"{count:6} {answer}")
    print(
        f"{options.calls} calls in {time.monotonic() - began:.0f} s; {seen.ordinary_runs} ordinary"
        f" runs meanwhile; slowest status {seen.slowest_status_s:.2f} s; {len(seen.wrong)} wrong;"
        f" {len(tracebacks)} tracebacks in the log"
    )
    for wrong in seen.wrong[:20]:
        print(f"wrong: {wrong}", file=sys.stderr)
    for traceback in tracebacks[:20]:
        print(traceback, file=sys.stderr)
    return 1 if seen.wrong or tracebacks else 0


if __name__ == "__main__":
    sys.exit(main())
