"""Paths and texts as people write them at a shell: `~`, and byte order marks of pasted files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from app.dialect.inputs import InputSpec

BYTE_ORDER_MARK = "\ufeff"


def without_mark(text: str) -> str:
    """Returns the text without the mark with which some editors begin a file."""
    return text.removeprefix(BYTE_ORDER_MARK)


def from_home(path: str) -> str:
    """Returns the path with a leading `~` as the home folder, where no shell has replaced it."""
    return os.path.expanduser(path)  # noqa: PTH111  (Path raises for a name that is no user's)


def with_home(specs: Iterable[InputSpec], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the inputs with `from_home` for those that take a file; other texts are literal."""
    found = dict(inputs)
    for name in {spec.name for spec in specs if spec.media} & inputs.keys():
        given = inputs[name]
        if isinstance(given, str):
            found[name] = from_home(given)
        elif isinstance(given, list):
            found[name] = [from_home(each) if isinstance(each, str) else each for each in given]
    return found
