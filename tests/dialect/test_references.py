"""References are whole strings of the document, never of a typed value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.references import (
    PREFIXES,
    Reference,
    Substituted,
    TooManyNodes,
    parse,
    place,
    substitute,
)
from app.errors import Problem

texts = st.text(max_size=20)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


def replaced(tree: Any, values: dict[str, Any], *typed: str) -> Substituted:
    """Returns the tree with these variables substituted; those in `typed` are typed values."""
    return substitute(tree, values, typed=frozenset(typed), given=frozenset(typed))


@given(kind=st.sampled_from(PREFIXES), target=st.text())
def test_reference_is_parsed(kind: Any, target: str):
    assert parse(f"{kind}:{target}") == Reference(kind, target)


@given(st.none() | st.integers() | st.floats() | st.lists(texts) | st.binary())
def test_non_string_is_no_reference(value: object):
    assert parse(value) is None


@pytest.mark.parametrize(
    "text", ["", "variable", "a variable:x", " variable:x", "Variable:x", "variable :x", "other:x"]
)
def test_prefix_inside_text_is_plain_text(text: str):
    assert parse(text) is None


def test_place_is_readable():
    assert (
        place(("steps", 0, "pipeline", "loras", 12, "scale")) == "steps[0].pipeline.loras[12].scale"
    )
    assert place(()) == ""
    assert place(("a.b", "c/d", 0)) == '["a.b"]["c/d"][0]'


keys = st.text(min_size=1, max_size=8) | st.sampled_from(["a.b", "~", "/", '"', "\\", "]", "x, y"])


@given(st.tuples(keys, keys | st.integers(0, 99), keys | st.integers(0, 99)))
def test_every_place_has_json_pointer(path: tuple[str | int, ...]):
    pointer = Problem(place=place(path), message="").pointer
    words = [word.replace("~1", "/").replace("~0", "~") for word in pointer.split("/")[1:]]
    assert words == [str(part) for part in path]


@pytest.mark.parametrize("text", ["", "line 2, column 13", "/seed"])
def test_other_places_are_unchanged_as_pointer(text: str):
    assert Problem(place=text, message="").pointer == text


@given(trees)
def test_document_without_references_is_unchanged(tree: Any):
    if "variable:" not in repr(tree):
        assert replaced(tree, {}).tree == tree


def test_every_reference_is_replaced():
    tree = {"a": ["variable:x", {"b": "variable:y"}], "c": "see variable:x", "d": "variable:x"}
    assert replaced(tree, {"x": 1, "y": ["z"]}).tree == {
        "a": [1, {"b": ["z"]}],
        "c": "see variable:x",
        "d": 1,
    }


def test_places_of_typed_values_are_recorded():
    tree = {"a": ["variable:typed", "variable:own"], "b": "variable:typed"}
    assert replaced(tree, {"typed": 1, "own": 2}, "typed").literal == {("a", 0), ("b",)}


@given(texts)
def test_typed_value_is_not_searched_for_references(value: str):
    # Otherwise a person could write `variable:…` and reach another variable.
    tree = {"a": "variable:x"}
    assert replaced(tree, {"x": f"variable:{value}"}, "x").tree == {"a": f"variable:{value}"}


def test_default_may_contain_variables():
    values = {"both": {"first": "variable:one", "second": ["variable:two"]}, "one": "variable:two",
              "two": 2}  # fmt: skip
    assert replaced(["variable:both"], values).tree == [{"first": 2, "second": [2]}]
    found = replaced(["variable:both"], {**values, "two": "variable:typed"}, "two")
    assert found.tree == [{"first": "variable:typed", "second": ["variable:typed"]}]
    assert found.literal == {(0, "first"), (0, "second", 0)}


def test_circular_defaults_are_reported():
    values = {"a": "variable:b", "b": ["variable:a"], "self": "variable:self"}
    found = replaced({"x": "variable:a", "y": "variable:self"}, values)
    assert found.endless == ((("x", 0), "a"), (("y",), "self"))


def test_exponential_defaults_are_refused():
    values: dict[str, Any] = {f"v{n}": [f"variable:v{n + 1}"] * 10 for n in range(50)}
    with pytest.raises(TooManyNodes):
        replaced("variable:v0", values)


def test_undeclared_variables_are_reported_with_place():
    tree = {"a": ["variable:x", "variable:y"], "b": "variable:x", "c": "variable:"}
    assert replaced(tree, {}).undeclared == (
        (("a", 0), "x"),
        (("a", 1), "y"),
        (("b",), "x"),
        (("c",), ""),
    )


@given(trees)
def test_previous_result_references_are_kept(tree: Any):
    wrapped = {"result": "previous_result:draw", "constant": "constant:torch.float16", "x": tree}
    found = replaced(wrapped, {}).tree
    assert found["result"] == "previous_result:draw"
    assert found["constant"] == "constant:torch.float16"
