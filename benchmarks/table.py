"""The one table a benchmark prints: Markdown, to be read as it is or pasted into README.md."""

from __future__ import annotations

from collections.abc import Iterable

Row = tuple[str, str, str]
"""What was measured, the figure with its unit, and what it must or should be; empty: nothing is."""
HEAD: Row = ("what", "measured", "must or aim")


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print the title, then the rows below a head, columns of one width."""
    measured = list(rows)
    widths = [max(map(len, column)) for column in zip(HEAD, *measured, strict=True)]
    print(title, "", sep="\n")
    for row in (HEAD, tuple("-" * width for width in widths), *measured):
        print("|", " | ".join(map(str.ljust, row, widths)), "|")
