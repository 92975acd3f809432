"""One value of a document, changed for one run: `/steps/0/pipeline/arguments/width` = 256.

Places are JSON pointers (RFC 6901). What is set is a person's own value: it is literal, as an input
is, so it can neither refer to anything nor choose a class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from app.errors import Problem, nearest, shortened
from app.workflow.references import Path

SETTABLE = ("steps", "seed")
MAX_TOLD = 20
INDEX = re.compile(r"0|[1-9][0-9]{0,6}")


def with_changes(
    tree: dict[str, Any], changes: Mapping[str, JsonValue]
) -> tuple[dict[str, Any], frozenset[Path], list[Problem]]:
    """The document with these values set, the places they stand at, and what was wrong.

    An object may get a key it does not have; an item of a list has to be there.
    """
    changed: Any = tree
    places: set[Path] = set()
    problems: list[Problem] = []
    for number, (pointer, value) in enumerate(changes.items()):
        if len(problems) >= MAX_TOLD:
            # Each may be compared with every key there is.
            message = f"{len(changes) - number} more changes were not looked at."
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
    """Where the pointer leads in this document. Raises _NoPlace where nothing can stand."""
    words = [word.replace("~1", "/").replace("~0", "~") for word in pointer.split("/")[1:]]
    if not pointer.startswith("/") or words[0] not in SETTABLE:
        raise _NoPlace(
            "Only /seed and what stands below /steps can be set.",
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
    """A copy of the tree along this path with the value at its end; the rest is shared."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        return [*tree[:first], _replaced(tree[first], tuple(rest), value), *tree[first + 1 :]]
    return {**tree, first: _replaced(tree.get(first), tuple(rest), value)}
