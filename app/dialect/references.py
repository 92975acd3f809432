"""The three prefixes of a document's strings: `variable:`, `previous_result:`, `constant:`.

A string is a reference only as a whole; inside a longer text a prefix is just text. Only the
document's own strings are parsed here: typed values are literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from app.errors import Problem

Path = tuple[str | int, ...]
"""A value's place in a document: `("steps", 0, "pipeline", "arguments", "prompt")`."""

PREFIXES: tuple[Literal["variable", "previous_result", "constant"], ...] = (
    "variable",
    "previous_result",
    "constant",
)


MAX_NODES = 100_000
"""Objects, lists and values in a document together; real ones have some hundreds."""
PLAIN_KEY = re.compile(r'[^.\[\]"/, ]+')


class Reference(NamedTuple):
    """A parsed reference: its kind and its target."""

    kind: Literal["variable", "previous_result", "constant"]
    target: str


def parse(value: object) -> Reference | None:
    """Returns the reference in this value, or None."""
    if isinstance(value, str):
        for kind in PREFIXES:
            if value.startswith(f"{kind}:"):
                return Reference(kind, value[len(kind) + 1 :])
    return None


def place(path: Path) -> str:
    """Returns the path in readable form: `steps[0].pipeline.arguments.prompt`.

    A key that is not a plain name is quoted: `arguments["a.b"]`.
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text


class Substituted(NamedTuple):
    """A document with its variables replaced."""

    tree: Any
    literal: frozenset[Path]
    """Places of typed values: nothing below is a reference, a name or a file rule."""
    references: dict[Path, str]
    """The variable that stood at each place."""
    undeclared: tuple[tuple[Path, str], ...]
    """References to variables the document does not declare."""
    endless: tuple[tuple[Path, str], ...]
    """References to variables whose default leads back to themselves."""
    nodes: int
    """Number of objects, lists and values in the tree."""


def count_nodes(tree: Any) -> int:
    """Returns the number of objects, lists and values in the tree; stops counting above
    MAX_NODES."""
    count, level = 0, [tree]
    while level and count <= MAX_NODES:
        count += len(level)
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        level = inner
    return count


class TooManyNodes(Exception):
    """The document has more than `MAX_NODES` parts once its variables are replaced."""


def substitute(
    tree: JsonValue, values: Mapping[str, Any], typed: frozenset[str], given: frozenset[str]
) -> Substituted:
    """Replaces every `variable:NAME` by its value.

    A default may itself refer to variables, at any depth. Values in `given` are taken as they are;
    of those, the ones in `typed` are typed by a person and literal. Raises TooManyNodes where
    nested defaults grow without bounds.
    """
    literal: set[Path] = set()
    references: dict[Path, str] = {}
    undeclared: list[tuple[Path, str]] = []
    endless: list[tuple[Path, str]] = []
    nodes = 0

    def walk(value: Any, path: Path, inside: tuple[str, ...]) -> Any:
        nonlocal nodes
        nodes += 1
        if nodes > MAX_NODES:
            raise TooManyNodes
        if isinstance(value, dict):
            return {key: walk(item, (*path, key), inside) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index), inside) for index, item in enumerate(value)]
        reference = parse(value)
        if reference is None or reference.kind != "variable":
            return value
        name = reference.target
        references[path] = name
        if name not in values:
            undeclared.append((path, name))
            return None
        if name in typed:
            literal.add(path)
        if name in given:
            nodes += count_nodes(values[name])
            return values[name]
        if name in inside:
            endless.append((path, name))
            return None
        return walk(values[name], path, (*inside, name))

    replaced = walk(tree, (), ())
    return Substituted(
        replaced, frozenset(literal), references, tuple(undeclared), tuple(endless), nodes
    )


# --- problems at a place --------------------------------------------------------------------------

MAX_PROBLEMS = 100


class TooManyProblems(Exception):
    """The limit of reported problems is reached; the planner stops looking."""


def problem(problems: list[Problem], path: Path, message: str, hint: str = "") -> None:
    """Notes a problem at this place. Raises TooManyProblems."""
    if len(problems) >= MAX_PROBLEMS:
        raise TooManyProblems
    problems.append(Problem(place=place(path), message=message, hint=hint))
