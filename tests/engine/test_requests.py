"""Requests that cannot be sent to a worker are refused, and the engine goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from app.dialect.request import MAX_NAMES, MAX_REQUEST_BYTES
from app.errors import InvalidInputs, WorkbenchError
from app.planning.planner import make_plan
from app.protocol import MAX_COMMAND_BYTES
from app.settings import PathSettings
from tests.conftest import PROJECT
from tests.engine.bench import Bench

PROMPT = "/steps/0/pipeline/arguments/prompt"


def nested(levels: int, value: Any = 1) -> Any:
    for _ in range(levels):
        value = [value]
    return value


NASTY = {
    "half a character": "a\ud800b",
    "half a character in a key": {"\udfff": 1},
    "infinity": math.inf,
    "not a number": [math.nan],
    "200 levels": nested(200),
    "100,000 levels": nested(100_000),
    "2 MB of text": "a" * 2_000_000,
    "2 MB of numbers": [1] * 1_000_000,
    "5000 digits": 10**5000,
    "400 digits": -(10**400),
    "bytes": b"abc",
    "a set": {1, 2},
    "a key that is a number": {1: 2},
}


@pytest.mark.parametrize("value", NASTY.values(), ids=NASTY)
@pytest.mark.parametrize("place", ["changes", "inputs"])
def test_unencodable_value_is_refused(bench: Bench, place: str, value: Any):
    assert bench.run().success
    pid = bench.pid
    inputs: dict[str, Any] = {"prompt": "nothing"}
    changes = {PROMPT: value} if place == "changes" else {}
    inputs |= {} if changes else {"negative_prompt": value}
    with pytest.raises(InvalidInputs) as refused:
        bench.engine.submit(bench.workflow, inputs, changes=changes)
    assert len(str(refused.value).encode()) < 1000
    assert bench.run().success
    assert bench.pid == pid


@pytest.mark.parametrize("pointer", ["/steps/0/\ud800", "\ud800", 7, None])
def test_non_text_pointer_is_refused(bench: Bench, pointer: Any):
    with pytest.raises(InvalidInputs) as refused:
        bench.engine.submit(bench.workflow, {"prompt": "nothing"}, changes={pointer: 1})
    str(refused.value).encode()
    assert bench.run().success


def test_combined_depth_of_changes_is_limited(bench: Bench):
    changes: dict[str, Any] = {}
    pointer = PROMPT
    for _ in range(10):
        changes[pointer] = nested(30, {})
        pointer += "/0" * 30 + "/a"
    with pytest.raises(WorkbenchError, match="nested"):
        bench.engine.submit(bench.workflow, {"prompt": "nothing"}, changes=changes)
    assert bench.run().success


def test_combined_size_of_inputs_and_changes_is_limited(bench: Bench):
    half = ["a" * 1000] * (MAX_REQUEST_BYTES // 2000 + 10)
    with pytest.raises(InvalidInputs, match="together"):
        make_plan(
            bench.workflow,
            {"prompt": "a", "negative_prompt": half},
            paths=PathSettings(),
            changes={PROMPT: half},
        )


def test_command_size_is_limited(bench: Bench):
    """A value within the limits that many steps use."""
    document = json.loads(bench.workflow.read_text())
    (drawing,) = document["steps"]
    document["variables"]["texts"] = ["a" * 1000] * 400
    drawing["pipeline"]["arguments"]["prompt"] = "variable:texts"
    count = MAX_COMMAND_BYTES // 400_000 + 1
    document["steps"] = [{**drawing, "name": f"draw {number}"} for number in range(count)]
    many = bench.workflow.with_name("many-steps.json")
    many.write_text(json.dumps(document))
    with pytest.raises(InvalidInputs, match=f"the maximum is {MAX_COMMAND_BYTES:,}"):
        bench.engine.submit(many, {"prompt": "nothing"})
    assert bench.run().success


@pytest.mark.parametrize("place", ["changes", "inputs"])
def test_number_of_names_is_limited(bench: Bench, place: str):
    many = {f"/steps/{number}": number for number in range(MAX_NAMES + 1)}
    changes, inputs = (many, {}) if place == "changes" else ({}, many)
    with pytest.raises(InvalidInputs, match=f"at most {MAX_NAMES}") as refused:
        bench.engine.submit(bench.workflow, inputs, changes=changes)
    assert len(str(refused.value)) < 1000


def test_deepest_allowed_value_reaches_worker(bench: Bench):
    run_id = bench.engine.submit(
        bench.workflow, {"prompt": "nothing"}, changes={PROMPT: nested(35, "a")}
    )
    assert bench.finish(run_id).success


def test_too_large_run_is_refused_at_once(bench: Bench, tmp_path: Path):
    tree = json.loads(bench.workflow.read_text())
    step = tree["steps"][0]
    model = PROJECT / "models" / "shapes"
    step["pipeline"]["from_pretrained_arguments"]["model_name"] = str(model)
    step["pipeline"]["arguments"]["prompt"] = "variable:words"
    tree["variables"]["words"] = ["a" * 1000] * 900
    tree["steps"] = [{**step, "name": f"draw{number}"} for number in range(40)]
    workflow = tmp_path / "large.json"
    workflow.write_text(json.dumps(tree))
    with pytest.raises(InvalidInputs, match="the maximum is 32,000,000"):
        bench.engine.submit(workflow, {"prompt": "nothing"})
    assert bench.run().success
