"""The disk cache for identical requests."""

from __future__ import annotations

from pathlib import Path

from app.engine.request_cache import FOLDER, MAX_ENTRIES, TRIM_EVERY, RequestCache, RequestResults


def test_request_cache_evicts_oldest_entries(tmp_path: Path):
    remembered = RequestCache(tmp_path)
    last = MAX_ENTRIES + 2 * TRIM_EVERY
    for number in range(last):
        remembered.note(str(number), RequestResults(made_at=number, results=(), outputs=()))
    there = {int(file.stem) for file in (tmp_path / FOLDER).glob("*.json")}
    assert MAX_ENTRIES <= len(there) < MAX_ENTRIES + TRIM_EVERY
    assert there == set(range(last - len(there), last))
    assert remembered.find("0") is None
    assert remembered.find(str(last - 1)) is not None
