"""A file becomes a raw document, or it is said where the file is wrong."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import InvalidWorkflow, UnknownWorkflow
from app.workflow.loader import MAX_DOCUMENT_BYTES, parse_document, read_document
from tests.workflow.bench import drawing, told


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "flow.json"


def refused(file: Path, content: str | bytes) -> InvalidWorkflow:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidWorkflow) as caught:
        read_document(file)
    return caught.value


def test_a_document_is_read_with_its_bytes(file: Path):
    file.write_text(json.dumps(drawing()))
    raw = read_document(file)
    assert (raw.tree, raw.content) == (drawing(), file.read_bytes())


def test_a_byte_order_mark_is_no_mistake(file: Path):
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
def test_a_document_is_an_object(file: Path, text: str):
    assert str(refused(file, text)) == "'flow.json' is not a workflow: a JSON object is needed."


def test_what_is_not_text_is_refused(file: Path):
    assert str(refused(file, b'{"id": "\xff\xfe"}')) == "'flow.json' is not UTF-8 text."


def test_a_number_without_end_is_refused(file: Path):
    refused(file, '{"id": ' + "1" * 5000 + "}")


def test_a_file_larger_than_a_document_can_be_is_refused(file: Path):
    with file.open("wb") as sparse:
        sparse.truncate(MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(InvalidWorkflow, match=r"'flow\.json' is larger than 50 MiB"):
        read_document(file)


@pytest.mark.parametrize("name", ["flo.json", "flow", "flow.txt"])
def test_a_missing_file_names_the_nearest_one(file: Path, name: str):
    file.write_text("{}")
    with pytest.raises(UnknownWorkflow) as caught:
        read_document(file.with_name(name))
    assert caught.value.hint == "Did you mean 'flow'?"


def test_a_folder_is_no_workflow_file(file: Path):
    file.mkdir()
    with pytest.raises(UnknownWorkflow):
        read_document(file)


def test_what_is_wrong_with_a_document_is_told_whole_with_places():
    document, _, _, problems, _ = parse_document(
        {"id": "", "steps": [{"name": "a", "pipeline": {"configuration": {}}}], "seed": "x"}
    )
    assert document is None
    assert {found.place: found.message for found in problems} == {
        "id": 'String should have at least 1 character, not "".',
        "steps[0].pipeline.configuration.component_type": "'component_type' is missing.",
        "steps[0].pipeline.from_pretrained_arguments": "'from_pretrained_arguments' is missing.",
        "steps[0].pipeline.arguments": "'arguments' is missing.",
        "seed": 'Input should be a valid integer, not "x".',
    }


def test_a_document_without_steps_is_refused_at_its_steps():
    for empty in ({"id": "x"}, {"id": "x", "steps": []}, {"id": "x", "steps": 3}):
        problems = parse_document(empty).problems
        assert [found.place for found in problems] == ["steps"]


def test_a_long_wrong_value_is_shortened_in_the_sentence():
    (found,) = parse_document({"id": "x", "steps": "y" * 1000}).problems
    assert len(found.message) < 150


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_whatever_a_file_holds_it_is_read_or_refused(file: Path, content: bytes):
    file.write_bytes(content)
    with contextlib.suppress(InvalidWorkflow):
        assert isinstance(read_document(file).tree, dict)
