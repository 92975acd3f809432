"""Initial values of form components, and the inputs read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from app.dialect.document import InputBlock
from app.dialect.inputs import check_inputs, input_specs
from app.errors import InvalidInputs
from app.settings import PathSettings
from app.ui.form import Field, fits, read_form, read_seed, shown


def form(default: JsonValue, held: Any, uploads: Path, **block: Any) -> tuple[Any, JsonValue]:
    """Returns the component's initial value, and the run's value for the held one."""
    specs = input_specs({"x": default}, {"x": InputBlock(**block)})
    (spec,) = specs
    given = read_form(
        [Field(spec, None)],
        [shown(spec) if held is ... else held],
        PathSettings(media=(uploads,)),
    )
    values, problems = check_inputs(specs, given, (uploads,))
    assert problems == []
    return shown(spec), values.get("x", default)


@pytest.mark.parametrize(
    ("default", "text"),
    [
        ("a fox", "a fox"),
        (["a", "b"], "a, b"),
        (["a, b", "c"], '["a, b", "c"]'),
        ([1, 2], "[1, 2]"),
        ({"a": [1]}, '{"a": [1]}'),
        (None, None),
        (1234567890123456789, "1234567890123456789"),
    ],
)
def test_unchanged_field_keeps_default(tmp_path: Path, default: JsonValue, text: Any):
    assert form(default, ..., tmp_path) == (text, default)


@pytest.mark.parametrize(
    ("default", "held", "value"),
    [
        (["a"], "x, y", ["x", "y"]),
        ([1], "[2, 3]", [2, 3]),
        ({"a": 1}, '{"b": {"c": 2}}', {"b": {"c": 2}}),
        (None, "", None),
        (None, "text", "text"),
        ("text", "", ""),
        (1234567890123456789, "1234567890123456787", 1234567890123456787),
        (7, 2**53, 2**53),
    ],
)
def test_typed_value_is_read_with_type_of_default(
    tmp_path: Path, default: JsonValue, held: str, value: JsonValue
):
    assert form(default, held, tmp_path)[1] == value


def test_number_rounded_by_browser_is_refused(tmp_path: Path):
    """JavaScript rounds the typed number to 1234567890123456800."""
    with pytest.raises(InvalidInputs, match=r"Browsers round .* 1234567890123456800 may not be"):
        form(7, 1234567890123456800, tmp_path)


def test_large_number_in_text_is_kept_across_forms():
    (spec,) = input_specs({"x": 1234567890123456789}, {})
    assert fits(spec, "1234567890123456787")
    assert not fits(spec, 7)


def test_form_does_not_read_default_image(tmp_path: Path):
    for default in ("http://127.0.0.1:9/a.png", {"location": "/etc/passwd"}):
        assert form(default, None, tmp_path, kind="image") == (None, default)


def test_removed_file_leaves_form(tmp_path: Path):
    (spec,) = input_specs({"an_image": None}, {"an_image": InputBlock()})
    picture = tmp_path / "a.png"
    assert not fits(spec, str(picture))
    picture.touch()
    assert fits(spec, str(picture))


@pytest.mark.parametrize(
    ("text", "seed"),
    [("", None), (None, None), (" 7 ", 7), ("-7", -7), ("99999999999999999999", 10**20 - 1)],
)
def test_seed_may_be_any_integer_in_form(text: str, seed: int | None):
    assert read_seed(text) == seed


@pytest.mark.parametrize("text", ["1.5", "1e5", "\u0663", "1_000", "-", "9" * 5000])
def test_non_integer_seed_is_rejected(text: str):
    with pytest.raises(InvalidInputs, match="has to be a whole number") as caught:
        read_seed(text)
    assert len(caught.value.problems[0].message) < 100
