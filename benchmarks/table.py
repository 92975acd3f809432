"""The Markdown table that a benchmark prints."""

from __future__ import annotations

from collections.abc import Iterable

Row = tuple[str, str, str]
"""What was measured, the figure with its unit, and the requirement or aim; may be empty."""
HEAD: Row = ("what", "measured", "must or aim")


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Prints the title, then a table with aligned columns."""
    measured = list(rows)
    widths = [max(map(len, column)) for column in zip(HEAD, *measured, strict=True)]
    print(title, "", sep="\n")
    for row in (HEAD, tuple("-" * width for width in widths), *measured):
        print("|", " | ".join(map(str.ljust, row, widths)), "|")
