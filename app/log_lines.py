"""Protects the log against forged lines."""

from __future__ import annotations

import logging
import re

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """Returns the text on one line, with every control character escaped: `\\x0a`."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class IndentingFormatter(logging.Formatter):
    """Indents every line after a record's first, so that no part of a request looks like a record
    of its own."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = super().format(record).split("\n")
        return "\n  ".join(printable(line) for line in (first, *more))
