"""Names of workflows and their parameters are unique, stable, and never move."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.inputs import VARIABLE_NAME
from app.dialect.naming import TAKEN_PARAMETERS, one_line, parameter_names, slug, workflow_names

A, B = Path("/a"), Path("/b")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("text-to-image", "text-to-image"),
        ("My Flow_2", "my-flow-2"),
        ("猫", "猫"),
        ("Café", "café"),
        ("Cafe\u0301", "café"),
        ("हिन्दी", "हिन्दी"),
        ("a\nb\u202ec", "a-b-c"),
        ("!?", ""),
        ("caf\udce9", "caf"),
    ],
)
def test_slug_keeps_letters_of_any_script(stem: str, expected: str) -> None:
    assert slug(stem) == expected


def test_files_without_letters_get_names_of_their_own() -> None:
    files = [A / "!.json", A / "?.json", A / "猫.json", A / "犬.json"]
    names = workflow_names(files, {})
    assert len(set(names.values())) == 4
    assert [names[file] for file in files[2:]] == ["猫", "犬"]
    assert names[files[0]].startswith("workflow-")


def test_name_stays_when_file_is_added() -> None:
    for older, newer in ((A / "a b.json", A / "a-b.json"), (A / "!.json", A / "?.json"),
                         (B / "a.json", A / "a.json")):  # fmt: skip
        before = workflow_names([older], {})
        after = workflow_names([newer, older], before)
        assert after[older] == before[older]
        assert after[newer] != before[older]


def test_name_is_not_taken_over_after_a_restart() -> None:
    """Of two files of one folder with the same slug both have a hash: a script that uses the plain
    name gets an error, and never runs the other file."""
    names = workflow_names([A / "a b.json", A / "a-b.json"], {})
    assert "a-b" not in names.values()
    assert all(name.startswith("a-b-") for name in names.values())
    assert names == workflow_names([A / "a-b.json", A / "a b.json"], {})


def test_name_of_removed_file_is_not_reused() -> None:
    known = workflow_names([A / "a b.json"], {})
    assert workflow_names([A / "a_b.json"], known)[A / "a_b.json"] != "a-b"


def test_first_folder_keeps_the_plain_name() -> None:
    names = workflow_names([A / "x.json", B / "x.json"], {})
    assert names[A / "x.json"] == "x"
    assert names[B / "x.json"].startswith("x-")


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.text("ab-_ !猫", max_size=3)), max_size=8))
def test_names_are_unique(drawn: list[tuple[Path, str]]) -> None:
    files = [folder / f"{stem}.json" for folder, stem in drawn]
    names = workflow_names(files, {})
    assert set(names) == set(files)
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("variables", "parameters"),
    [
        (["prompt", "steps"], ["prompt", "steps"]),
        (["a-b"], ["a_b"]),
        (["a-b", "a_b"], ["a_b_2", "a_b"]),
        (["a_b", "a-b"], ["a_b", "a_b_2"]),
        (["from", "lambda", "None"], ["from_", "lambda_", "None_"]),
        (["from", "from_"], ["from_2", "from_"]),
        (["request", "api_name", "self"], ["request_", "api_name_", "self_"]),
        (["seed", "match"], ["seed", "match"]),
    ],
)
def test_parameter_is_nearest_valid_python_name(
    variables: list[str], parameters: list[str]
) -> None:
    assert list(parameter_names(variables).values()) == parameters


@given(st.lists(st.from_regex(VARIABLE_NAME, fullmatch=True), unique=True, max_size=8))
def test_parameters_are_unique_identifiers(variables: list[str]) -> None:
    names = parameter_names(variables)
    assert list(names) == variables
    assert len(set(names.values())) == len(variables)
    assert all(name.isidentifier() and name not in TAKEN_PARAMETERS for name in names.values())


def test_one_line_removes_invisible_characters() -> None:
    assert one_line("a\n\tb\u202e\u2066c\x00\udce9") == "a b c"
    assert one_line("x" * 200) == "x" * 99 + "…"
