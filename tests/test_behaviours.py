"""The table of behaviours names tests that exist."""

from __future__ import annotations

import re

from app.settings import PROJECT

TABLE = PROJECT / "tests" / "BEHAVIOURS.md"
NAMED = re.compile(r"`(tests/[\w/.*]+?)(?:::([\w*]+))?`")


def test_behaviours_table_names_existing_tests():
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 30
    missing = []
    for row in rows:
        named = NAMED.findall(row.split(" | ")[1])
        assert named, row
        for path, name in named:
            files = list(PROJECT.glob(path))
            if not files or (name not in ("", "*") and f"def {name}(" not in files[0].read_text()):
                missing.append(f"{path}::{name}")
    assert missing == []
