"""Writes text and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from app.errors import ResultError
from app.outputs import NewFile, Record

if TYPE_CHECKING:
    from app.dialect.plan import ResultSpec


def save_text(artifact: Any, file: NewFile, _record: Record, _spec: ResultSpec) -> None:
    file.write(str(artifact).encode())


def save_json(artifact: Any, file: NewFile, _record: Record, _spec: ResultSpec) -> None:
    """Writes data as JSON. Raises ResultError for values JSON does not support."""
    if not is_data(artifact):
        raise ResultError(
            f"A {type(artifact).__name__} cannot be saved as JSON.",
            hint="Give the step a result block for its kind, image/png for example.",
        )
    file.write(json.dumps(artifact, ensure_ascii=False, indent=2).encode())


def is_data(value: Any) -> bool:
    """Returns whether JSON supports the whole value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_data(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_data, value))
    return value is None or isinstance(value, str | int | float)
