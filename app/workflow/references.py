"""The three prefixes a document's string may carry: `variable:`, `previous_result:`, `constant:`.

A string is a reference only as a whole; inside a longer text a prefix is just text. Only what the
document itself says is ever parsed here: what a person typed is literal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

Path = tuple[str | int, ...]
"""Where a value stands in a document: `("steps", 0, "pipeline", "arguments", "prompt")`."""

PREFIXES: tuple[Literal["variable", "previous_result", "constant"], ...] = (
    "variable",
    "previous_result",
    "constant",
)


class Reference(NamedTuple):
    """A parsed reference: which kind, and to what."""

    kind: Literal["variable", "previous_result", "constant"]
    target: str


def parse(value: object) -> Reference | None:
    """The reference this value is, or None."""
    if isinstance(value, str):
        for kind in PREFIXES:
            if value.startswith(f"{kind}:"):
                return Reference(kind, value[len(kind) + 1 :])
    return None


def place(path: Path) -> str:
    """The path as a person reads it: `steps[0].pipeline.arguments.prompt`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class Substituted(NamedTuple):
    """A document with its variables replaced."""

    tree: Any
    literal: frozenset[Path]
    """Where a person's own value landed: nothing below is a reference, a name or a file rule."""
    undeclared: tuple[tuple[Path, str], ...]
    """References to variables the document does not declare."""


def substitute(
    tree: JsonValue, values: Mapping[str, Any], given: frozenset[str], at: Path = ()
) -> Substituted:
    """Replace every `variable:NAME` by its value; `given` names those whose value is literal."""
    literal: set[Path] = set()
    undeclared: list[tuple[Path, str]] = []

    def walk(value: JsonValue, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        reference = parse(value)
        if reference is None or reference.kind != "variable":
            return value
        if reference.target not in values:
            undeclared.append((path, reference.target))
            return None
        if reference.target in given:
            literal.add(path)
        return values[reference.target]

    replaced = walk(tree, at)
    return Substituted(replaced, frozenset(literal), tuple(undeclared))
