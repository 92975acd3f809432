"""References are whole strings, and only those the document itself says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.workflow.references import PREFIXES, Reference, parse, place, substitute

texts = st.text(max_size=20)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


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


@given(trees)
def test_a_document_without_references_stays_as_it_is(tree: Any):
    if "variable:" not in repr(tree):
        assert substitute(tree, {}, frozenset()) == (tree, frozenset(), ())


def test_every_reference_is_replaced_wherever_it_stands():
    tree = {"a": ["variable:x", {"b": "variable:y"}], "c": "see variable:x", "d": "variable:x"}
    replaced = substitute(tree, {"x": 1, "y": ["z"]}, frozenset())
    assert replaced.tree == {"a": [1, {"b": ["z"]}], "c": "see variable:x", "d": 1}


def test_where_a_persons_value_landed_is_remembered():
    tree = {"a": ["variable:typed", "variable:own"], "b": "variable:typed"}
    replaced = substitute(tree, {"typed": 1, "own": 2}, frozenset({"typed"}))
    assert replaced.literal == {("a", 0), ("b",)}


@given(texts)
def test_a_value_is_not_looked_into_for_further_references(value: str):
    # Otherwise a person could write `variable:…` and reach another variable.
    tree = {"a": "variable:x"}
    assert substitute(tree, {"x": f"variable:{value}"}, frozenset({"x"})).tree == {
        "a": f"variable:{value}"
    }


def test_every_undeclared_variable_is_told_with_its_place():
    tree = {"a": ["variable:x", "variable:y"], "b": "variable:x", "c": "variable:"}
    assert substitute(tree, {}, frozenset()).undeclared == (
        (("a", 0), "x"),
        (("a", 1), "y"),
        (("b",), "x"),
        (("c",), ""),
    )


@given(trees)
def test_other_references_are_left_for_later(tree: Any):
    wrapped = {"result": "previous_result:draw", "constant": "constant:torch.float16", "x": tree}
    replaced = substitute(wrapped, {}, frozenset()).tree
    assert replaced["result"] == "previous_result:draw"
    assert replaced["constant"] == "constant:torch.float16"
