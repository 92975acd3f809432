"""Weights in a prompt, in the notation of AUTOMATIC1111's web UI; pure.

`(text)` multiplies the weight by 1.1, `[text]` divides it by 1.1, `(text:1.5)` multiplies by the
number; nested ones multiply. `\\(`, `\\)`, `\\[` and `\\]` are the characters themselves. The word
BREAK begins a new chunk, except at the end. An unclosed bracket counts to the end, and an unopened
one is plain text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

STEP = 1.1
SUPPORTED = ("Flux", "StableDiffusion")
"""Prefixes of the pipelines whose prompts can be weighted here."""
NOT_SUPPORTED = ("Flux2", "Flux3")
BREAK = re.compile(r"\s*\bBREAK\b\s*")
MARKS = re.compile(
    r"\\[()\[\]]"  # an escaped bracket
    r"|:\s*(?P<weight>[+-]?\d*\.?\d+)\s*\)"  # the end of one with a weight
    r"|[()\[\]]"
    rf"|{BREAK.pattern}"
)


class Piece(NamedTuple):
    """Text of one weight."""

    text: str
    weight: float


Chunk = tuple[Piece, ...]


def has_marks(prompt: str) -> bool:
    """Returns True if the prompt may contain a weight or a BREAK."""
    return any(mark in prompt for mark in "([") or BREAK.search(prompt) is not None


def can_be_weighed(pipeline_class: str) -> bool:
    """Returns True if prompts of this pipeline class (unqualified) can be weighted."""
    is_one = pipeline_class.startswith(SUPPORTED) and not pipeline_class.startswith(NOT_SUPPORTED)
    return is_one or pipeline_class.startswith(("AutoPipeline", "DiffusionPipeline"))


def is_read_in_chunks(pipeline_class: str) -> bool:
    """Returns True if CLIP alone reads the prompts of this class: they may have any length."""
    return pipeline_class.startswith("StableDiffusion") and not pipeline_class.startswith(
        "StableDiffusion3"
    )


def read_weights(prompt: str) -> tuple[Chunk, ...]:
    """Returns the prompt's chunks, each of pieces; neighbours have different weights."""
    chunks: list[list[Piece]] = [[]]
    round_open: list[tuple[int, int]] = []
    square_open: list[tuple[int, int]] = []

    def here() -> tuple[int, int]:
        return len(chunks) - 1, len(chunks[-1])

    def weigh(since: tuple[int, int], factor: float) -> None:
        for number, chunk in enumerate(chunks):
            start = since[1] if number == since[0] else 0
            if number >= since[0]:
                chunk[start:] = [Piece(t, weight * factor) for t, weight in chunk[start:]]

    read = 0
    for mark in MARKS.finditer(prompt):
        chunks[-1].append(Piece(prompt[read : mark.start()], 1.0))
        read = mark.end()
        found = mark[0]
        if found.startswith("\\"):
            chunks[-1].append(Piece(found[1], 1.0))
        elif found.strip() == "BREAK":
            chunks.append([])
        elif mark["weight"] is not None and round_open:
            weigh(round_open.pop(), float(mark["weight"]))
        elif found == "(":
            round_open.append(here())
        elif found == "[":
            square_open.append(here())
        elif found == ")" and round_open:
            weigh(round_open.pop(), STEP)
        elif found == "]" and square_open:
            weigh(square_open.pop(), 1 / STEP)
        else:
            chunks[-1].append(Piece(found, 1.0))
    chunks[-1].append(Piece(prompt[read:], 1.0))
    if len(chunks) > 1 and not any(text for text, _ in chunks[-1]):
        chunks.pop()
    for since in round_open:
        weigh(since, STEP)
    for since in square_open:
        weigh(since, 1 / STEP)
    return tuple(_joined(chunk) for chunk in chunks)


def plain(chunks: tuple[Chunk, ...]) -> str:
    """Returns the prompt without marks, as an encoder reads it."""
    return " ".join("".join(piece.text for piece in chunk) for chunk in chunks)


def weights_of_characters(chunks: tuple[Chunk, ...]) -> list[float]:
    """Returns the weight of each character of the plain prompt."""
    found: list[float] = []
    for number, chunk in enumerate(chunks):
        found += [1.0] if number else []
        for text, weight in chunk:
            found += [weight] * len(text)
    return found


def _joined(pieces: list[Piece]) -> Chunk:
    joined: list[Piece] = []
    for text, weight in pieces:
        if not text:
            continue
        if joined and joined[-1].weight == weight:
            joined[-1] = Piece(joined[-1].text + text, weight)
        else:
            joined.append(Piece(text, weight))
    return tuple(joined)
