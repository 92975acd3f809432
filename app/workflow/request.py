"""What a request may carry at all, checked before anything of it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.errors import Problem, shortened
from app.workflow.inputs import printable, unfit

MAX_REQUEST_BYTES = 1_000_000
"""Inputs and changes together, as JSON. Every run keeps them in its record, and the worker needs
many times as much memory to read them."""
MAX_NAMES = 1000
"""Inputs or changes of one request; each may get a sentence of its own when it is refused."""


def request_problems(inputs: Mapping[str, Any], changes: Mapping[str, Any]) -> list[Problem]:
    """Everything that keeps the inputs and changes of a request from being carried as JSON."""
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
    # A value that fits is not deep, so this cannot run out of stack.
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
