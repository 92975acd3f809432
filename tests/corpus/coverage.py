"""The page that says what runs here, made from the tables that `make corpus` runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.corpus.own import OWN
from tests.corpus.real import REAL, Mistaken, NotYet, Runs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dialect-coverage.md"
BLOCK = re.compile(r"<!-- made by: make corpus -->.*<!-- end -->", re.DOTALL)


def block() -> str:
    """The part of the page that is made."""
    runs = sum(isinstance(line, Runs) for line in REAL.values())
    lines = [
        "<!-- made by: make corpus -->",
        f"{runs} of the {len(REAL)} documents that are at hand run; these are not run here:",
        "",
        "| document | why it is not run |",
        "| --- | --- |",
        *(
            f"| {name} | {_why(line)} |"
            for name, line in REAL.items()
            if not isinstance(line, Runs)
        ),
        "",
        f"| {runs} documents by others | files it writes |",
        "| --- | --- |",
        *(f"| {name} | {_files(line)} |" for name, line in REAL.items() if isinstance(line, Runs)),
        "",
        f"| {len(OWN)} of our own, by pipeline class | preview in its first run |",
        "| --- | --- |",
        *(
            f"| {own.name.replace('-', ', then ')} | {'yes' if own.preview else 'no'} |"
            for own in OWN
        ),
        "<!-- end -->",
    ]
    return "\n".join(lines)


def write_page() -> None:
    """Bring the page into step."""
    PAGE.write_text(BLOCK.sub(lambda _: block(), PAGE.read_text()))


def _why(line: NotYet | Mistaken) -> str:
    if isinstance(line, Mistaken):
        return f"its own mistake: {line.sentence} (`{line.place}`)"
    return f"not yet: {line.why}"


def _files(line: Runs) -> str:
    kinds: dict[str, int] = {}
    for saved in line.saved:
        kinds[saved.content_type] = kinds.get(saved.content_type, 0) + 1
    return ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
