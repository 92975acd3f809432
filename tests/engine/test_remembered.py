"""What answers identical requests, beside the results."""

from __future__ import annotations

from pathlib import Path

from app.engine.remembered import FOLDER, MAX_REMEMBERED, TRIM_EVERY, Remembered, RememberedResults


def test_of_too_many_the_oldest_are_forgotten_and_all_others_answer(tmp_path: Path):
    remembered = RememberedResults(tmp_path)
    last = MAX_REMEMBERED + 2 * TRIM_EVERY
    for number in range(last):
        remembered.note(str(number), Remembered(made_at=number, results=(), outputs=()))
    there = {int(file.stem) for file in (tmp_path / FOLDER).glob("*.json")}
    assert MAX_REMEMBERED <= len(there) < MAX_REMEMBERED + TRIM_EVERY
    assert there == set(range(last - len(there), last))
    assert remembered.find("0") is None
    assert remembered.find(str(last - 1)) is not None
