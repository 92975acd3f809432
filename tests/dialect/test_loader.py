"""Reading a workflow file, and the messages about broken ones."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.dialect.json_text import line_of
from app.dialect.loader import MAX_DOCUMENT_BYTES, parse_document, read_document
from app.errors import MAX_REPORTED, InvalidWorkflow, UnknownWorkflow
from tests.plan_bench import Bench, drawing, step, told


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "flow.json"


def refused(file: Path, content: str | bytes) -> InvalidWorkflow:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidWorkflow) as caught:
        read_document(file)
    return caught.value


def test_document_is_read_with_its_bytes(file: Path):
    file.write_text(json.dumps(drawing()))
    raw = read_document(file)
    assert (raw.tree, raw.content) == (drawing(), file.read_bytes())


def test_byte_order_mark_is_accepted(file: Path):
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(drawing()).encode())
    assert read_document(file).tree == drawing()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"id": "x",\n  "steps": [}', "line 2, column 13"),
        ('{"id": "x"', "line 1, column 11"),
        ("", "line 1, column 1"),
        ("{'id': 1}", "line 1, column 2"),
    ],
)
def test_broken_json_is_refused_with_line_and_column(file: Path, text: str, place: str):
    error = refused(file, text)
    assert error.message == "'flow.json' is not valid JSON."
    assert list(told(error)) == [place]


@pytest.mark.parametrize("text", ["[]", '"text"', "3", "null"])
def test_document_must_be_an_object(file: Path, text: str):
    assert str(refused(file, text)) == "'flow.json' is not a workflow: a JSON object is needed."


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ('{"id": "x",\n  "steps": [1, ]}', 2, "There is an extra comma before this."),
        ('{"id": "x",\n}', 2, "There is an extra comma before this."),
        ('{"id": "x",\n, "steps": 1}', 2, "There is an extra comma here."),
        ('{"id": "x"\n "steps": 1}', 2, "A comma is missing before this."),
        ('{"id" "x"}', 1, "A colon is missing between a key and its value."),
        ("{'id': 1}", 1, "A text stands in double quotes in JSON."),
        ("{id: 1}", 1, "A key stands in double quotes."),
        ('{"id": shapes}', 1, "A text stands in double quotes."),
        ('{"a": True}', 1, "JSON writes true, not True."),
        ('{"a": None}', 1, "JSON writes null, not None."),
        ('{\n"a": NaN}', 2, "NaN is no number in JSON."),
        ('{\n"a": [-Infinity]}', 2, "-Infinity is no number in JSON."),
        ('{"NaN": "NaN",\n"a": 1e999}', 2, "1e999 is no number in JSON."),
        ('{\n// mine\n"id": "x"}', 2, "JSON has no comments."),
        ('/* mine */ {"id": "x"}', 1, "JSON has no comments."),
        ('{"steps": {\n{"name": 1}}}', 2, "A key is needed here. Keys go in { }"),
        ('{"steps": [\n"name": 1]}', 2, "A key cannot stand here. Keys go in { }"),
        ('{"steps": [{"a": 1]}', 1, "This ']' closes what another kind of bracket opened."),
        ('{"steps": [1}\n}', 1, "This '}' closes what another kind of bracket opened."),
        ('{"steps": []}}', 1, "There is text after the end of the document."),
        ('{"steps": [', 1, "The file ends before the document does."),
        ('{"steps": "abc', 1, "The text that begins here has no closing quote."),
        ('{"a": "C:\\models"}', 1, "A backslash is written twice in JSON"),
        ('{"a": "one\ntwo"}', 1, "A text cannot continue on the next line."),
        ("", 1, "The file is empty."),
    ],
)
def test_common_json_mistakes_are_explained(file: Path, text: str, line: int, told: str):
    (found,) = refused(file, text).problems
    assert found.place.startswith(f"line {line}, column ")
    assert f"{found.message} {found.hint}".startswith(told)


def test_repeated_key_is_a_warning(file: Path):
    file.write_text('{"id": "x", "steps": [], "steps": [{"name": "a"}]}')
    raw = read_document(file)
    assert raw.tree["steps"] == [{"name": "a"}]
    (warning,) = raw.warnings
    assert warning.startswith("flow.json: The key 'steps' occurs twice in one object")


def test_binary_file_is_refused(file: Path):
    error = refused(file, b'{"id": "\xff\xfe"}')
    assert error.message == "'flow.json' is not UTF-8 text."


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_document_may_have_any_json_encoding(file: Path, encoding: str):
    file.write_bytes(json.dumps(drawing()).encode(encoding))
    assert read_document(file).tree == drawing()


@pytest.mark.parametrize(
    ("pointer", "line"),
    [
        ("", 1), ("/id", 2), ("/steps", 3), ("/steps/1", 5), ("/steps/1/b", 6),
        ("/steps/1/c", 5), ("/steps/7", 3), ("/steps/0/a/b", 4), ("/x~1y", 8), ("/none", 1),
    ],
)  # fmt: skip
def test_line_is_found_by_pointer(pointer: str, line: int):
    text = """{
    "id": "a, \\"steps\\": {",
    "steps": [
        {"a": 1},
        {
            "b": [1, 2, {}]
        }],
    "x/y": null
}"""
    assert line_of(text, pointer) == line


def test_endless_number_is_refused(file: Path):
    refused(file, '{"id": ' + "1" * 5000 + "}")


def test_too_large_file_is_refused(file: Path):
    with file.open("wb") as sparse:
        sparse.truncate(MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(InvalidWorkflow, match=r"'flow\.json' is larger than 50 MiB"):
        read_document(file)


@pytest.mark.parametrize("name", ["flo.json", "flow", "flow.txt"])
def test_missing_file_suggests_nearest(file: Path, name: str):
    file.write_text("{}")
    with pytest.raises(UnknownWorkflow) as caught:
        read_document(file.with_name(name))
    assert caught.value.hint == "Did you mean 'flow'?"


def test_folder_is_refused_with_its_files(file: Path):
    with pytest.raises(UnknownWorkflow, match="is a folder") as empty:
        read_document(file.parent)
    file.write_text("{}")
    with pytest.raises(UnknownWorkflow) as full:
        read_document(file.parent)
    assert (empty.value.hint, full.value.hint) == (
        "It has no .json file.", "It has: flow.json.",
    )  # fmt: skip


def test_file_with_other_suffix_is_refused(file: Path):
    text = file.with_suffix(".txt")
    text.write_text("{}")
    with pytest.raises(UnknownWorkflow, match=r"does not end in \.json"):
        read_document(text)
    shouted = file.with_suffix(".JSON")
    shouted.write_text("{}")
    assert read_document(shouted).tree == {}


def test_all_problems_are_reported_with_places():
    document, _, _, problems, _ = parse_document(
        {"id": "", "steps": [{"name": "a", "pipeline": {"configuration": {}}}], "seed": "x"}
    )
    assert document is None
    assert {found.place: found.message for found in problems} == {
        "id": "A non-empty text is needed, not ''.",
        "steps[0].pipeline.configuration.component_type": "'component_type' is missing.",
        "steps[0].pipeline.from_pretrained_arguments": "'from_pretrained_arguments' is missing.",
        "steps[0].pipeline.arguments": "'arguments' is missing.",
        "seed": "A whole number is needed, not 'x'.",
    }


def test_document_without_steps_is_refused():
    for empty in ({"id": "x"}, {"id": "x", "steps": []}, {"id": "x", "steps": 3}):
        problems = parse_document(empty).problems
        assert [found.place for found in problems] == ["steps"]


def test_long_value_is_shortened_in_message():
    (found,) = parse_document({"id": "x", "steps": "y" * 1000}).problems
    assert len(found.message) < 150


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_any_file_is_read_or_refused(file: Path, content: bytes):
    file.write_bytes(content)
    with contextlib.suppress(InvalidWorkflow):
        assert isinstance(read_document(file).tree, dict)


@pytest.mark.parametrize(
    "document",
    [
        drawing(steps=[{"name": "a"}] * 10_000),
        drawing(steps=[step()] * 3000),
        drawing(inputs={f"prompt{n}": {} for n in range(40_000)}),
        drawing(inputs={"prompt": {f"lbel{n}": 1 for n in range(40_000)}}),
        drawing(variables={f" {n}": n for n in range(200)}),
        drawing(steps=[step(arguments={f"promt{n}": n for n in range(40_000)})]),
        drawing(steps=[step(arguments={f"a{n}": f"variable:promt{n}" for n in range(40_000)})]),
    ],
    ids=["empty steps", "steps of one name", "unknown inputs", "unknown keys", "wrong names",
         "unknown arguments", "undeclared variables"],
)  # fmt: skip
def test_problems_are_reported_up_to_limit(bench: Bench, document: Any):
    error = bench.refused(document)
    assert 20 < len(error.problems) <= MAX_REPORTED + 1
    assert len(str(error)) < 50_000
