"""The notation of words that change between denoising steps, parsed by a pure function."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.prompt_schedule import first_change, prompt_at
from app.dialect.weighting import plain, read_weights

marked = st.text("ab [](|):.05\\", max_size=40)


def prompts(prompt: str, steps: int) -> list[str]:
    return [prompt_at(prompt, step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a [red|blue] cat", ["a red cat", "a blue cat", "a red cat", "a blue cat"]),
        ("[a|b|c]", ["a", "b", "c", "a"]),
        ("a [big |]cat", ["a big cat", "a cat", "a big cat", "a cat"]),
        ("a [red:blue:0.5] cat", ["a red cat", "a red cat", "a blue cat", "a blue cat"]),
        ("[a:b:1]", ["a", "b", "b", "b"]),
        ("[a:b:3]", ["a", "a", "a", "b"]),
        ("[a:b:1.0]", ["a", "a", "a", "a"]),
        ("[a:b:0]", ["b", "b", "b", "b"]),
        ("[a:b:0.1]", ["b", "b", "b", "b"]),
        ("[a:b:9]", ["a", "a", "a", "a"]),
        ("[a:b: .5 ]", ["a", "a", "b", "b"]),
        ("a[ cat:2]", ["a", "a", "a cat", "a cat"]),
        ("a[ cat::2]", ["a cat", "a cat", "a", "a"]),
        ("[(a:1.3):[b|c]:2]", ["(a:1.3)", "(a:1.3)", "b", "c"]),
        ("[a:[b:c:3]:1]", ["a", "b", "b", "c"]),
        ("([a|b]:1.2)", ["(a:1.2)", "(b:1.2)", "(a:1.2)", "(b:1.2)"]),
        ("[(a|b)|c]", ["(a|b)", "c", "(a|b)", "c"]),
        ("[(a:b|c:1]", ["[(a:b|c:1]"] * 4),
        ("[a)|b]", ["a)", "b", "a)", "b"]),
        ("[a BREAK b|c]", ["a BREAK b", "c", "a BREAK b", "c"]),
    ],
)
def test_words_change_in_their_step(prompt: str, read: list[str]):
    assert prompts(prompt, 4) == read


def test_share_is_of_the_steps():
    assert prompts("[a:b:0.29]", 100) == ["a"] * 29 + ["b"] * 71


@pytest.mark.parametrize(
    "prompt",
    ["a cat", "[red]", "a|b", "(a|b)", "[a:b]", "[a:b:c]", "[a:b:c:5]", "[a:b:-1]", "[a|b", "a|b]",
     r"\[a|b\]", "a:b:0.5", "[:]", "[(a|b)]"],
)  # fmt: skip
def test_other_text_stays_the_same(prompt: str):
    assert prompts(prompt, 2) == [prompt] * 2
    assert first_change(prompt) == ""


def test_first_change_is_quoted():
    assert first_change("a [b] [c:[d|e]:0.5] [f|g]") == "[c:[d|e]:0.5]"


@given(marked, st.integers(1, 9), st.data())
def test_any_text_is_read_in_each_step(prompt: str, steps: int, data: st.DataObject):
    step = data.draw(st.integers(0, steps - 1))
    made = prompt_at(prompt, step, steps)
    assert len(made) <= len(prompt)
    assert (made == prompt) or first_change(prompt)


def test_very_deep_brackets_are_read():
    depth = 5000
    assert prompt_at("[a|" * depth + "b" + "]" * depth, 1, 2) == "b"
    assert plain(read_weights(prompt_at("[" * 50 + "]" * 50, 0, 1))) == ""
