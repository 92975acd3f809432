"""Rows of a batch: CSV tables and JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import BadRequest
from app.shell.batch_results import BatchResults
from app.shell.batch_rows import Row, read_rows
from app.shell.workbench import Ended


def rows(tmp_path: Path, name: str, content: str | bytes, *, growing: bool = False) -> list[Row]:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(file, "draw", growing=growing)


def told(row: Row) -> list[str]:
    return [str(problem) for problem in row.problems]


def test_cells_are_inputs_and_empty_cells_are_left_out(tmp_path: Path) -> None:
    text = '\ufeff prompt ,steps,seed,workflow,\r\n"a, b",,7,,\r\n\r\nc,20,,other,\r\n'
    first, second = rows(tmp_path, "rows.CSV", text)
    assert first == Row(1, 2, "draw", {"prompt": "a, b"}, 7)
    assert second == Row(2, 4, "other", {"prompt": "c", "steps": "20"}, None)


def test_values_of_json_lines_keep_their_types_and_null_is_left_out(tmp_path: Path) -> None:
    text = '{"steps": 3, "images": ["a.png"], "seed": 7}\n\n{"prompt": "", "steps": null}'
    first, second = rows(tmp_path, "rows.jsonl", text)
    assert first == Row(1, 1, "draw", {"steps": 3, "images": ["a.png"]}, 7)
    assert second == Row(2, 3, "draw", {"prompt": ""}, None)


@pytest.mark.parametrize(
    ("name", "text", "line", "expected"),
    [
        ("rows.csv", "a\n1,2\n", 2, "It has 2 cells, and the header names 1 columns."),
        ("rows.csv", 'a\n"1\n2\n', 2, "It cannot be read as CSV: unexpected end of data."),
        ("rows.csv", "a,seed\n1,x\n", 2, "seed: A whole number is needed, not 'x'."),
        ("rows.csv", "a,seed\n1,-1\n", 2, "seed: A whole number is needed, not '-1'."),
        ("rows.csv", f"a,seed\n1,{2**64}\n", 2, f"seed: {2**64} is outside 0 to "),
        ("rows.jsonl", "{}\n{\n", 2, "It is no JSON: "),
        ("rows.jsonl", "[" * 100_000, 1, "It is no JSON: "),
        ("rows.jsonl", "[1]", 1, "An object is needed, not [1]."),
        ("rows.jsonl", '{"seed": true}', 1, "seed: A whole number is needed, not true."),
        ("rows.jsonl", '{"workflow": 7}', 1, "workflow: A name is needed, not 7."),
    ],
)
def test_unreadable_row_says_why(
    name: str, text: str, line: int, expected: str, tmp_path: Path
) -> None:
    row = rows(tmp_path, name, text)[-1]
    assert row.line == line
    (sentence,) = told(row)
    assert sentence.startswith(expected)


def test_row_without_workflow_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    (row,) = read_rows(tmp_path / "rows.jsonl", None)
    assert told(row) == [
        "workflow: No workflow is named. Name one with --workflow, or in a column `workflow`."
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.txt", "a\n1\n", "'rows.txt' is no table of rows."),
        ("rows.csv", "a,b,a\n1\n", "The header of 'rows.csv' names 'a' twice."),
        ("rows.csv", "a,,b\n1\n", "Column 2 of 'rows.csv' has no name in the header."),
        ("rows.csv", "preis,grö\n".encode("latin-1"), "is not UTF-8 (byte 9). Save it as UTF-8."),
    ],
)
def test_unreadable_file_is_refused(
    name: str, content: str | bytes, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest) as refused:
        rows(tmp_path, name, content)
    assert expected in str(refused.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be read: No such file"):
        read_rows(tmp_path / "none.csv", None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b"a\n1\n2"),
        ("rows.csv", b'a\n1\n"2\n3\n'),
        ("rows.csv", b"a\n1\n\xc3"),
        ("rows.jsonl", b'{"a": "1"}\n{"a": '),
    ],
)
def test_unfinished_row_of_growing_file_is_left_out(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (row,) = rows(tmp_path, name, content, growing=True)
    assert (row.inputs, row.problems) == ({"a": "1"}, ())


# --- results -------------------------------------------------------------------------------------


def row(number: int, **inputs: str) -> Row:
    return Row(number, number + 1, "draw", dict(inputs), None)


def test_equal_rows_are_counted_one_by_one(tmp_path: Path) -> None:
    made = tmp_path / "made.png"
    made.touch()
    results = BatchResults(tmp_path / "rows.results.jsonl", {}, anew=False)
    results.begin()
    results.add(row(1, prompt="a"), Ended(1.0, [str(made)], "", seed=3))
    results.add(row(2, prompt="b"), Ended(None, [], "It failed."))
    results.add(row(3, prompt="c"), Ended(1.0, [str(tmp_path / "gone.png")], "", seed=3))
    again = BatchResults(results.file, {}, anew=False)
    # Rows may have moved: their requests count.
    assert [again.has(row(7, prompt="a")), again.has(row(8, prompt="a"))] == [True, False]
    assert not again.has(row(2, prompt="b"))
    assert not again.has(row(3, prompt="c"))
    assert not BatchResults(results.file, {"/seed": 1}, anew=False).has(row(1, prompt="a"))


def test_line_cut_off_by_a_kill_is_removed_before_the_next(tmp_path: Path) -> None:
    file = tmp_path / "rows.results.jsonl"
    file.write_text('{"row": 1, "hash": "x", "error": "no"}\n{"row": 2, "ha')
    BatchResults(file, {}, anew=False).begin()
    assert file.read_text() == '{"row": 1, "hash": "x", "error": "no"}\n'


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"files": [], "seed": 1}', '{"files": [7.5]}'])
def test_other_file_in_the_place_of_results_is_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.results.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(BadRequest, match=r"Line 1 of '.*' is not of a batch\. Move that file away"):
        BatchResults(file, {}, anew=False)
    assert file.read_text() == f"{line}\n"
