"""Encodes events as bytes that the parent can always decode."""

from __future__ import annotations

from typing import Any

from app.errors import ResultError
from app.protocol import Event, RunFailed, RunSucceeded, decode_event, encode
from app.workflow.inputs import printable


def encode_event(event: Event) -> bytes:
    """Returns the event as bytes.

    Lone surrogates (of file names, say) are replaced. RunSucceeded with results that JSON cannot
    carry becomes RunFailed.
    """
    try:
        data = encode(event)
        if isinstance(event, RunSucceeded):
            decode_event(data)
    except ValueError as error:
        if isinstance(event, RunSucceeded):
            return encode_event(_unsendable(event, error))
        return encode(type(event).model_validate(_printable(event.model_dump())))
    return data


def _unsendable(event: RunSucceeded, error: Exception) -> RunFailed:
    failed = ResultError(
        "The result of the last step cannot be sent as JSON.",
        hint="Have the step save it, with a `result` of its own.",
        detail=str(error),
    )
    return RunFailed(run_id=event.run_id, time=event.time, error=failed.report())


def _printable(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {_printable(key): _printable(item) for key, item in value.items()}
        case list() | tuple():
            return [_printable(item) for item in value]
    return value
