"""Checks the JSON of a call before Gradio, which would answer a bad one with a traceback."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import shortened
from app.ui.plain_errors import validation_message

MAX_BYTES = 8_000_000
MAX_DEPTH = 100
Session = Annotated[str, Field(pattern=r"^[\w.~-]{1,128}$")]


class RefusedCall(Exception):
    """A refused call; its text is the message for the client."""


class Call(BaseModel):
    """The checked fields of a call; handlers check the values in `data`."""

    model_config = ConfigDict(extra="allow", strict=True)

    data: Annotated[list[Any], Field(max_length=500)] | None = None
    fn_index: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    session_hash: Session | None = None
    trigger_id: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    event_id: Session | None = None


IGNORED = ("oauth_token", "batched", "batch_trigger_ids", "request", "simple_format")
"""Fields that Gradio accepts and no client here sends."""


def read(body: bytes) -> dict[str, Any]:
    """Returns the JSON object in this body: finite, not deep, every text encodable. Raises
    RefusedCall."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RefusedCall:
        raise
    except (ValueError, RecursionError):
        raise RefusedCall("The request cannot be read. It is not JSON.") from None
    if not isinstance(value, dict):
        given = shortened(json.dumps(value))
        raise RefusedCall(f"The request cannot be read. body: An object is needed, not {given}.")
    if _depth(value) > MAX_DEPTH:
        raise RefusedCall(f"The body is nested deeper than {MAX_DEPTH} levels.")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise RefusedCall("A text of the body has half of a surrogate pair.") from None
    except ValueError:
        raise RefusedCall("A number of the body is too large.") from None
    return value


def checked(body: bytes) -> Call:
    """Returns the call in this body. Raises RefusedCall."""
    value = read(body)
    try:
        return Call.model_validate(
            {name: each for name, each in value.items() if name not in IGNORED}
        )
    except ValidationError as error:
        raise RefusedCall(validation_message(error.errors(), "body")) from None


def written(call: Call) -> bytes:
    """Returns the call as the body for Gradio."""
    return json.dumps(call.model_dump(exclude_unset=True)).encode()


def _refuse_constant(name: str) -> Any:
    raise RefusedCall(f"{name} is no number of JSON.")


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
