"""References are whole strings, and only those the document itself says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Problem
from app.workflow.references import (
    PREFIXES,
    Reference,
    Substituted,
    TooManyNodes,
    parse,
    place,
    substitute,
)

texts = st.text(max_size=20)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


def replaced(tree: Any, values: dict[str, Any], *typed: str) -> Substituted:
    """The tree with these variables; those in `typed` are a person's own."""
    return substitute(tree, values, typed=frozenset(typed), given=frozenset(typed))


@given(kind=st.sampled_from(PREFIXES), target=st.text())
def test_a_reference_is_read_as_it_was_written(kind: Any, target: str):
    assert parse(f"{kind}:{target}") == Reference(kind, target)


@given(st.none() | st.integers() | st.floats() | st.lists(texts) | st.binary())
def test_what_is_no_text_is_no_reference(value: object):
    assert parse(value) is None


@pytest.mark.parametrize(
    "text", ["", "variable", "a variable:x", " variable:x", "Variable:x", "variable :x", "other:x"]
)
def test_a_prefix_inside_a_text_is_just_text(text: str):
    assert parse(text) is None


def test_a_place_reads_as_a_person_says_it():
    assert (
        place(("steps", 0, "pipeline", "loras", 12, "scale")) == "steps[0].pipeline.loras[12].scale"
    )
    assert place(()) == ""
    assert place(("a.b", "c/d", 0)) == '["a.b"]["c/d"][0]'


keys = st.text(min_size=1, max_size=8) | st.sampled_from(["a.b", "~", "/", '"', "\\", "]", "x, y"])


@given(st.tuples(keys, keys | st.integers(0, 99), keys | st.integers(0, 99)))
def test_every_place_has_its_json_pointer(path: tuple[str | int, ...]):
    pointer = Problem(place=place(path), message="").pointer
    words = [word.replace("~1", "/").replace("~0", "~") for word in pointer.split("/")[1:]]
    assert words == [str(part) for part in path]


@pytest.mark.parametrize("text", ["", "line 2, column 13", "/seed"])
def test_what_is_no_place_in_a_document_stays_as_it_is(text: str):
    assert Problem(place=text, message="").pointer == text


@given(trees)
def test_a_document_without_references_stays_as_it_is(tree: Any):
    if "variable:" not in repr(tree):
        assert replaced(tree, {}).tree == tree


def test_every_reference_is_replaced_wherever_it_stands():
    tree = {"a": ["variable:x", {"b": "variable:y"}], "c": "see variable:x", "d": "variable:x"}
    assert replaced(tree, {"x": 1, "y": ["z"]}).tree == {
        "a": [1, {"b": ["z"]}],
        "c": "see variable:x",
        "d": 1,
    }


def test_where_a_persons_value_landed_is_remembered():
    tree = {"a": ["variable:typed", "variable:own"], "b": "variable:typed"}
    assert replaced(tree, {"typed": 1, "own": 2}, "typed").literal == {("a", 0), ("b",)}


@given(texts)
def test_a_value_is_not_looked_into_for_further_references(value: str):
    # Otherwise a person could write `variable:…` and reach another variable.
    tree = {"a": "variable:x"}
    assert replaced(tree, {"x": f"variable:{value}"}, "x").tree == {"a": f"variable:{value}"}


def test_a_default_may_be_another_variable_or_hold_one():
    values = {"both": {"first": "variable:one", "second": ["variable:two"]}, "one": "variable:two",
              "two": 2}  # fmt: skip
    assert replaced(["variable:both"], values).tree == [{"first": 2, "second": [2]}]
    found = replaced(["variable:both"], {**values, "two": "variable:typed"}, "two")
    assert found.tree == [{"first": "variable:typed", "second": ["variable:typed"]}]
    assert found.literal == {(0, "first"), (0, "second", 0)}


def test_defaults_that_lead_back_to_themselves_are_told():
    values = {"a": "variable:b", "b": ["variable:a"], "self": "variable:self"}
    found = replaced({"x": "variable:a", "y": "variable:self"}, values)
    assert found.endless == ((("x", 0), "a"), (("y",), "self"))


def test_defaults_that_double_each_other_are_given_up_in_time():
    values: dict[str, Any] = {f"v{n}": [f"variable:v{n + 1}"] * 10 for n in range(50)}
    with pytest.raises(TooManyNodes):
        replaced("variable:v0", values)


def test_every_undeclared_variable_is_told_with_its_place():
    tree = {"a": ["variable:x", "variable:y"], "b": "variable:x", "c": "variable:"}
    assert replaced(tree, {}).undeclared == (
        (("a", 0), "x"),
        (("a", 1), "y"),
        (("b",), "x"),
        (("c",), ""),
    )


@given(trees)
def test_other_references_are_left_for_later(tree: Any):
    wrapped = {"result": "previous_result:draw", "constant": "constant:torch.float16", "x": tree}
    found = replaced(wrapped, {}).tree
    assert found["result"] == "previous_result:draw"
    assert found["constant"] == "constant:torch.float16"
