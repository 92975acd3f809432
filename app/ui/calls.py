"""Checks the JSON of a call before Gradio, which would answer a bad one with a traceback."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.json_body import RefusedBody, read
from app.ui.plain_errors import validation_message

MAX_BYTES = 8_000_000
Session = Annotated[str, Field(pattern=r"^[\w.~-]{1,128}$")]


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


def checked(body: bytes) -> Call:
    """Returns the call in this body. Raises RefusedBody."""
    value = read(body)
    try:
        return Call.model_validate(
            {name: each for name, each in value.items() if name not in IGNORED}
        )
    except ValidationError as error:
        raise RefusedBody(validation_message(error.errors(), "body")) from None


def written(call: Call) -> bytes:
    """Returns the call as the body for Gradio."""
    return json.dumps(call.model_dump(exclude_unset=True)).encode()
