"""Limits of a request, checked before any of it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from app.dialect.inputs import printable, unfit
from app.dialect.references import Path
from app.errors import Problem, nearest, shortened

MAX_REQUEST_BYTES = 1_000_000
"""Inputs and changes together, as JSON. Every run keeps them in its record, and the worker needs
many times as much memory to read them."""
MAX_NAMES = 1000
"""Inputs or changes of one request; each may get a message of its own when it is refused."""


def request_problems(inputs: Mapping[str, Any], changes: Mapping[str, Any]) -> list[Problem]:
    """Returns the problems that keep a request's inputs and changes from being carried as JSON."""
    problems: list[Problem] = []
    for kind, given in (("inputs", inputs), ("changes", changes)):
        if len(given) > MAX_NAMES:
            message = f"There are {len(given)} {kind}; at most {MAX_NAMES} are taken."
            problems.append(Problem(place=kind, message=message))
            continue
        for name, value in given.items():
            if wrong := unfit({name: value}):
                where = shortened(printable(str(name)))
                where = where if kind == "changes" else f"inputs.{where}"
                problems.append(Problem(place=where, message=f"The value {wrong}."))
    if problems:
        return problems
    # A value that fits is not deep, so this cannot overflow the stack.
    size = sum(
        len(json.dumps(dict(given), ensure_ascii=False).encode()) for given in (inputs, changes)
    )
    if size > MAX_REQUEST_BYTES:
        message = (
            f"Inputs and changes have {size:,} bytes together; at most {MAX_REQUEST_BYTES:,} are"
            " taken."
        )
        problems.append(Problem(place="", message=message))
    return problems


# --- changes by JSON pointer (RFC 6901) -----------------------------------------------------------

SETTABLE = ("steps", "seed")
MAX_REPORTED = 20
INDEX = re.compile(r"0|[1-9][0-9]{0,6}")


def with_changes(
    tree: dict[str, Any], changes: Mapping[str, JsonValue]
) -> tuple[dict[str, Any], frozenset[Path], list[Problem]]:
    """Returns the document with these values set, their places, and the problems.

    An object may get a new key; a list's item must exist. A changed value is literal, as an input
    is: it can neither refer to anything nor choose a class.
    """
    changed: Any = tree
    places: set[Path] = set()
    problems: list[Problem] = []
    for number, (pointer, value) in enumerate(changes.items()):
        if len(problems) >= MAX_REPORTED:
            # Each may be compared with every known key.
            message = f"{len(changes) - number} more changes were not checked."
            problems.append(Problem(place="changes", message=message))
            break
        try:
            path = _path(pointer, changed)
            changed = _replaced(changed, path, value)
            places.add(path)
        except _NoPlace as error:
            problems.append(Problem(place=pointer, message=error.message, hint=error.hint))
    return changed, frozenset(places), problems


class _NoPlace(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def _path(pointer: str, tree: Any) -> Path:
    """Returns the path of the pointer in this document. Raises _NoPlace where nothing can be
    set."""
    words = [word.replace("~1", "/").replace("~0", "~") for word in pointer.split("/")[1:]]
    if not pointer.startswith("/") or words[0] not in SETTABLE:
        raise _NoPlace(
            "Only /seed and values below /steps can be set.",
            "A variable is given by its name: name=value.",
        )
    path: list[str | int] = []
    for depth, word in enumerate(words):
        last = depth == len(words) - 1
        if isinstance(tree, list):
            if not INDEX.fullmatch(word) or int(word) >= len(tree):
                word = shortened(word)
                raise _NoPlace(f"The list has {len(tree)} items, and none at '{word}'.")
            path.append(int(word))
            tree = tree[int(word)]
        elif isinstance(tree, dict):
            if word not in tree and not last:
                raise _NoPlace(f"There is no '{shortened(word)}'.", nearest(word, tree))
            path.append(word)
            tree = tree.get(word)
        else:
            raise _NoPlace(f"'{shortened(words[depth - 1])}' has no parts.")
    return tuple(path)


def _replaced(tree: Any, path: Path, value: JsonValue) -> Any:
    """Returns a copy of the tree along this path with the value at its end; the rest is shared."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        return [*tree[:first], _replaced(tree[first], tuple(rest), value), *tree[first + 1 :]]
    return {**tree, first: _replaced(tree.get(first), tuple(rest), value)}
