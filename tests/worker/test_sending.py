"""Events reach the parent, as sent or as a failure; none ends a process."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import JsonValue

from app.errors import ErrorReport
from app.protocol import (
    Event,
    Logged,
    Preview,
    ResultSaved,
    RunFailed,
    RunSucceeded,
    Timings,
    decode_event,
)
from app.worker.main import encode_event

HALF = "caf\udce9.png"
SAVED = ResultSaved(
    run_id="a", time=1.0, step="draw", path=f"/x/{HALF}", sidecar="/x/y.json",
    content_type="image/png", seed=1, index=0, final=True,
)  # fmt: skip


def succeeded(*outputs: JsonValue) -> RunSucceeded:
    return RunSucceeded(
        run_id="a", time=1.0, timings=Timings(total_s=1.0), loaded=(), outputs=outputs
    )


@pytest.mark.parametrize(
    "event",
    [
        Logged(time=1.0, level=30, logger="x", text=f"{HALF} is no picture"),
        RunFailed(run_id="a", time=1.0, error=ErrorReport(kind="LoadError", message=HALF)),
        SAVED,
    ],
    ids=lambda event: event.type,
)
def test_lone_surrogates_are_replaced(event: Event):
    heard = decode_event(encode_event(event))
    assert type(heard) is type(event)
    assert "caf\ufffd.png" in heard.model_dump_json()


def test_valid_events_are_sent_unchanged():
    for event in (succeeded("a", {"b": [1, None]}), Preview(
        run_id="a", time=1.0, jpeg=b"\xff\xd8", width=8, height=8
    )):  # fmt: skip
        assert decode_event(encode_event(event)) == event


def nested(levels: int) -> Any:
    value: Any = "a"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("output", ["\ud800", nested(199), nested(230)])
def test_results_that_json_cannot_hold_fail_the_run(output: JsonValue):
    event = succeeded().model_copy(update={"outputs": (output,)})
    heard = decode_event(encode_event(event))
    assert isinstance(heard, RunFailed)
    assert heard.error.message == "The result of the last step cannot be sent as JSON."
