"""Words that change between the denoising steps, in AUTOMATIC1111's notation; pure.

`[a|b|c]` takes the next option in each step. `[a:b:WHEN]` is a and then b, `[b:WHEN]` nothing and
then b, `[a::WHEN]` a and then nothing: WHEN is the number of steps before the change, or with a
point the share of them (0.5). They may contain each other. `\\[` and `\\]` are plain characters.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from typing import NamedTuple

MARKS = re.compile(r"\\[()\[\]]|[()\[\]|:]")
WHEN = re.compile(r"\s*(?:\d+(?:\.\d*)?|\.\d+)\s*")
ROUNDING = 1e-9
"""Lets 0.29 of 100 steps be 29."""

Span = tuple[int, int]


class _Change(NamedTuple):
    """One pair of brackets, and what it stands for."""

    end: int
    """Index after the closing bracket."""
    options: tuple[Span, ...]
    when: str
    """Number or share of the steps of the first of two options; "" to alternate."""

    def at(self, step: int, steps: int) -> Span:
        if not self.when:
            return self.options[step % len(self.options)]
        first = float(self.when) * (steps if "." in self.when else 1)
        return self.options[step >= int(first + ROUNDING)]


def first_change(prompt: str) -> str:
    """Returns the first words of the prompt that change between steps, with their brackets; else
    ""."""
    changes = _changes(prompt)
    return prompt[(begin := min(changes)) : changes[begin].end] if changes else ""


def prompt_at(prompt: str, step: int, steps: int) -> str:
    """Returns the prompt of this denoising step, counted from 0, of so many."""
    changes = _changes(prompt)
    begins = sorted(changes)
    text, spans = "", [(0, len(prompt))]
    while spans:
        begin, end = spans.pop()
        place = bisect_left(begins, begin)
        inner = min(begins[place], end) if place < len(begins) else end
        text += prompt[begin:inner]
        if inner < end:
            spans += [(changes[inner].end, end), changes[inner].at(step, steps)]
    return text


def _changes(prompt: str) -> dict[int, _Change]:
    """Returns the changes in the prompt, by the index of their opening bracket."""
    found: dict[int, _Change] = {}
    opened: list[tuple[int, list[re.Match[str]]]] = []
    """Brackets that are open, each with the bars and colons directly inside."""
    for mark in MARKS.finditer(prompt):
        if mark[0] in "([":
            opened.append((mark.start(), []))
        elif mark[0] in "|:" and opened:
            opened[-1][1].append(mark)
        elif mark[0] == ")" and opened and prompt[opened[-1][0]] == "(":
            opened.pop()
        elif mark[0] == "]":
            while opened and prompt[opened[-1][0]] == "(":
                opened.pop()
            if opened:
                begin, inside = opened.pop()
                change = _change(prompt, begin, mark.start(), inside)
                if change is not None:
                    found[begin] = change
    return found


def _change(prompt: str, begin: int, end: int, inside: list[re.Match[str]]) -> _Change | None:
    bars = [mark.start() for mark in inside if mark[0] == "|"]
    colons = [mark.start() for mark in inside if mark[0] == ":"]
    if bars:
        edges = [begin, *bars, end]
        options = tuple((one + 1, other) for one, other in itertools.pairwise(edges))
        return _Change(end + 1, options, "")
    if len(colons) not in (1, 2) or not WHEN.fullmatch(prompt, colons[-1] + 1, end):
        return None
    after = (begin + 1 if len(colons) == 1 else colons[0] + 1, colons[-1])
    before = (begin + 1, begin + 1 if len(colons) == 1 else colons[0])
    return _Change(end + 1, (before, after), prompt[colons[-1] + 1 : end].strip())
