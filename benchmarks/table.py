"""The one table a benchmark prints: Markdown, to be read as it is or pasted into README.md."""

from __future__ import annotations

from collections.abc import Iterable

Row = tuple[str, str, str]
"""What was measured, the figure with its unit, and what it must or should be; empty: nothing is."""
HEAD: Row = ("what", "measured", "must or aim")


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print the title, then the rows below a head, columns of one width."""
    table = [HEAD, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    table.insert(1, tuple("-" * width for width in widths))
    print(title, "", sep="\n")
    for row in table:
        print("|", " | ".join(map(str.ljust, row, widths)), "|")
