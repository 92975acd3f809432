"""The notation of weights in prompts, parsed by a pure function."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.weighting import (
    Piece,
    can_be_weighed,
    has_marks,
    is_read_in_chunks,
    plain,
    read_weights,
    weights_of_characters,
)

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30)
words = st.text("abc xyz,:.", min_size=1, max_size=12)


def escaped(text: str) -> str:
    return re.sub(r"([()\[\]])", r"\\\1", text)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("a (red:1.5) cat", [("a ", 1), ("red", 1.5), (" cat", 1)]),
        ("a [red] cat", [("a ", 1), ("red", 1 / 1.1), (" cat", 1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:2) cat:0.5)", [("a ", 0.5), ("red", 1.0), (" cat", 0.5)]),
        (r"\(red\) \[cat\]", [("(red) [cat]", 1)]),
        ("(red", [("red", 1.1)]),
        ("red)", [("red)", 1)]),
        ("[red", [("red", 1 / 1.1)]),
        ("time 12:30)", [("time 12:30)", 1)]),
        ("(red:)", [("red:", 1.1)]),
        ("", []),
    ],
)
def test_brackets_set_weights(prompt: str, pieces: list[tuple[str, float]]):
    (chunk,) = read_weights(prompt)
    assert [(text, pytest.approx(weight)) for text, weight in pieces] == list(chunk)


def test_break_begins_chunk_and_keeps_weights():
    chunks = read_weights("(red BREAK cat:2) dog")
    assert chunks == ((Piece("red", 2.0),), (Piece("cat", 2.0), Piece(" dog", 1.0)))
    assert plain(chunks) == "red cat dog"
    assert read_weights("BREAKFAST") == ((Piece("BREAKFAST", 1.0),),)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("BREAK red", ["", "red"]),
        ("red BREAK", ["red"]),
        ("(red BREAK)", ["red"]),
        ("red BREAK BREAK blue", ["red", "", "blue"]),
        ("BREAK", [""]),
        ("a\nBREAK\nb", ["a", "b"]),
    ],
)
def test_break_at_the_end_begins_no_chunk(prompt: str, texts: list[str]):
    assert ["".join(text for text, _ in chunk) for chunk in read_weights(prompt)] == texts


def test_break_alone_is_a_mark():
    assert has_marks("red BREAK blue")
    assert not has_marks("BREAKFAST")


@given(texts)
def test_every_character_of_any_text_has_a_weight(text: str):
    chunks = read_weights(text)
    assert len(weights_of_characters(chunks)) == len(plain(chunks))


@given(words)
def test_escaped_brackets_are_literal(text: str):
    assert plain(read_weights(escaped(text))) == text
    assert set(weights_of_characters(read_weights(escaped(text)))) <= {1.0}


@given(words, st.floats(0.1, 9.9).map(lambda weight: round(weight, 2)))
def test_weight_covers_exactly_characters_inside(text: str, weight: float):
    chunks = read_weights(f"before ({escaped(text)}:{weight}) after")
    assert plain(chunks) == f"before {text} after"
    around = weights_of_characters(chunks)
    assert around[:7] == [1.0] * 7
    assert around[7 : 7 + len(text)] == [weight] * len(text)
    assert around[7 + len(text) :] == [1.0] * 6


@given(words, st.integers(1, 4))
def test_nested_brackets_multiply(text: str, depth: int):
    chunks = read_weights("(" * depth + text.replace(":", "") + ")" * depth)
    for weight in weights_of_characters(chunks):
        assert weight == pytest.approx(1.1**depth)


def test_supported_pipelines_are_recognised_by_name():
    weighed = ("FluxPipeline", "FluxFillPipeline", "StableDiffusionXLPipeline", "AutoPipelineForX")
    assert [can_be_weighed(name) for name in weighed] == [True] * 4
    assert not any(can_be_weighed(name) for name in ("WanPipeline", "Flux2Pipeline"))


def test_prompts_that_clip_alone_reads_are_in_chunks():
    found = [
        is_read_in_chunks(f"{name}Pipeline")
        for name in ("StableDiffusion", "StableDiffusionXLControlNet", "StableDiffusion3", "Flux")
    ]
    assert found == [True, True, False, False]
