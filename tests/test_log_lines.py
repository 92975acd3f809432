"""Text from a request never begins a log line."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.conftest import PROJECT

FORGED = "2026-01-01 00:00:00,000 ERROR all is lost"
SCRIPT = f"""
import logging
from app.shell.cli import main
main(["workflows"])
logging.getLogger("app").warning("There is no %s", "/\\n{FORGED}\\r\\x1b[2J")
try:
    raise ValueError("/\\n{FORGED}")
except ValueError:
    logging.getLogger("app").exception("It failed")
"""


def test_log_indents_further_lines_and_escapes_control_characters() -> None:
    """Applies to messages and tracebacks."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert re.search(r"^\S+ \S+ WARNING There is no /$", done.stderr, re.MULTILINE)
    assert f"\n  {FORGED}\\x0d\\x1b[2J\n" in done.stderr
    assert done.stderr.count(FORGED) == 2
    assert not re.search(f"^{FORGED}", done.stderr, re.MULTILINE)
