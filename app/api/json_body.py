"""Reads the JSON body of a request."""

from __future__ import annotations

import json
from typing import Any

from app.errors import shortened

MAX_DEPTH = 100


class RefusedBody(Exception):
    """A body that is refused; its text is the message for the client."""


def read(body: bytes) -> dict[str, Any]:
    """Returns the JSON object in this body: finite, not deep, every text encodable. Raises
    RefusedBody."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RefusedBody:
        raise
    except (ValueError, RecursionError):
        raise RefusedBody("The request cannot be read. It is not JSON.") from None
    if not isinstance(value, dict):
        given = shortened(json.dumps(value))
        raise RefusedBody(f"The request cannot be read. body: An object is needed, not {given}.")
    if _depth(value) > MAX_DEPTH:
        raise RefusedBody(f"The body is nested deeper than {MAX_DEPTH} levels.")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise RefusedBody("A text of the body has half of a surrogate pair.") from None
    except ValueError:
        raise RefusedBody("A number of the body is too large.") from None
    return value


def _refuse_constant(name: str) -> Any:
    raise RefusedBody(f"{name} is no number of JSON.")


def _depth(value: Any) -> int:
    """Returns the number of nested levels; without recursion, which deep values would exhaust."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > MAX_DEPTH:
            break
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return deepest
