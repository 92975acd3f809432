"""The JSON of a call, checked before Gradio sees it, which would answer with a traceback."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import shortened
from app.ui.plain_errors import unreadable

MAX_BYTES = 8_000_000
MAX_DEPTH = 100
Session = Annotated[str, Field(pattern=r"^[\w.~-]{1,128}$")]


class NotTaken(Exception):
    """A call that is refused; its text is the sentence a client gets."""


class Call(BaseModel):
    """What is looked at of a call; the values in `data` are the handlers' to check."""

    model_config = ConfigDict(extra="allow", strict=True)

    data: Annotated[list[Any], Field(max_length=500)] | None = None
    fn_index: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    session_hash: Session | None = None
    trigger_id: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    event_id: Session | None = None


IGNORED = ("oauth_token", "batched", "batch_trigger_ids", "request", "simple_format")
"""What Gradio takes too and nobody here sends."""


def read(body: bytes) -> dict[str, Any]:
    """The JSON object in this body: finite, not deep, every text encodable. Raises NotTaken."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except NotTaken:
        raise
    except (ValueError, RecursionError):
        raise NotTaken("The request cannot be read. It is not JSON.") from None
    if not isinstance(value, dict):
        given = shortened(json.dumps(value))
        raise NotTaken(f"The request cannot be read. body: An object is needed, not {given}.")
    if _depth(value) > MAX_DEPTH:
        raise NotTaken(f"The body is nested deeper than {MAX_DEPTH} levels.")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise NotTaken("A text of the body has half of a surrogate pair.") from None
    except ValueError:
        raise NotTaken("A number of the body is too large.") from None
    return value


def checked(body: bytes) -> Call:
    """The call in this body. Raises NotTaken."""
    value = read(body)
    try:
        return Call.model_validate(
            {name: each for name, each in value.items() if name not in IGNORED}
        )
    except ValidationError as error:
        raise NotTaken(unreadable(error.errors(), "body")) from None


def written(call: Call) -> bytes:
    """The call as the body that Gradio gets."""
    return json.dumps(call.model_dump(exclude_unset=True)).encode()


def _refuse_constant(name: str) -> Any:
    raise NotTaken(f"{name} is no number of JSON.")


def _depth(value: Any) -> int:
    """How many levels are nested; without recursion, for that is what it is about."""
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
