"""Generates docs/dialect-coverage.md from the tables that `make corpus` runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.corpus.own import OWN
from tests.corpus.real import REAL, Mistaken, NotYet, Runs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dialect-coverage.md"
BLOCK = re.compile(r"<!-- made by: make corpus -->.*<!-- end -->", re.DOTALL)


def block() -> str:
    """Returns the generated part of the page."""
    runs = sum(isinstance(line, Runs) for line in REAL.values())
    lines = [
        "<!-- made by: make corpus -->",
        f"{runs} of {len(REAL)} third-party documents run. The others are refused:",
        "",
        "| document | reason |",
        "| --- | --- |",
        *(
            f"| {name} | {_why(line)} |"
            for name, line in REAL.items()
            if not isinstance(line, Runs)
        ),
        "",
        f"| third-party documents that run ({runs}) | output files |",
        "| --- | --- |",
        *(f"| {name} | {_files(line)} |" for name, line in REAL.items() if isinstance(line, Runs)),
        "",
        f"| our own documents ({len(OWN)}), by pipeline class | preview in the first run |",
        "| --- | --- |",
        *(
            f"| {own.name.replace('-', ', then ')} | {'yes' if own.preview else 'no'} |"
            for own in OWN
        ),
        "<!-- end -->",
    ]
    return "\n".join(lines)


def write_page() -> None:
    """Regenerates the tables of the page."""
    PAGE.write_text(BLOCK.sub(lambda _: block(), PAGE.read_text()))


def _why(line: NotYet | Mistaken) -> str:
    if isinstance(line, Mistaken):
        return f"an error in the document: {line.sentence} (`{line.place}`)"
    return f"not supported yet: {line.why}"


def _files(line: Runs) -> str:
    kinds: dict[str, int] = {}
    for saved in line.saved:
        kinds[saved.content_type] = kinds.get(saved.content_type, 0) + 1
    return ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
