"""Limits of planning: nodes, iterations, problems, file size."""

from __future__ import annotations

import time
from typing import Any

import pytest
from PIL import Image

from app.dialect.plan import MAX_ITERATIONS
from app.dialect.references import MAX_NODES
from app.errors import InvalidWorkflow
from tests.plan_bench import Bench, drawing, step, sub

LIMIT_S = 10
"""In processor time, as other work may delay a test."""


def gathering(name: str, count: int) -> dict[str, Any]:
    """Returns a step whose result is this many texts."""
    return {"name": name, "task": {"command": "gather_inputs", "inputs": ["a fox"] * count}}


def test_document_with_too_many_nodes_is_refused(bench: Bench):
    error = bench.refused(drawing(variables={"list": [0] * MAX_NODES}))
    assert error.message == (
        f"'flow.json' has more than {MAX_NODES} parts; a workflow is a small document."
    )


def test_multiplying_variables_count_as_nodes(bench: Bench):
    document = drawing(
        variables={"many": [0] * 1000}, steps=[step(arguments={"prompt": ["variable:many"] * 200})]
    )
    assert "once its variables are replaced" in bench.refused(document).message


def test_multiplying_sub_workflows_are_refused_in_time(bench: Bench):
    for depth in range(8):
        steps = [sub(f"{depth + 1}.json", f"s{index}") for index in range(12)]
        bench.write(drawing(steps=steps), f"{depth}.json")
    bench.write(drawing(), "8.json")
    started = time.process_time()
    error = bench.refused(drawing(steps=[sub("0.json")]))
    assert isinstance(error, InvalidWorkflow)
    assert time.process_time() - started < LIMIT_S


def test_combinations_of_results_are_counted_first(bench: Bench):
    both = {"prompt": "previous_result:a", "negative_prompt": "previous_result:b"}
    document = drawing(steps=[gathering("a", 101), gathering("b", 100), step(arguments=both)])
    assert bench.problems(document) == {
        "steps[2]": f"Step 'draw' would run 10100 times; {MAX_ITERATIONS} at most."
        " It runs once for every combination of earlier results."
    }
    document["steps"][0] = gathering("a", 100)
    assert len(bench.plan(document).steps) == 3


def test_images_per_prompt_count_as_iterations(bench: Bench):
    first = step("first", arguments={"prompt": ["a"] * 100, "num_images_per_prompt": 100})
    second = step("second", arguments={"prompt": "a", "ip_adapter_image": "previous_result:first"})
    bench.plan(drawing(steps=[first, second]))
    first["pipeline"]["arguments"]["prompt"] += ["b"]
    assert list(bench.problems(drawing(steps=[first, second]))) == ["steps[1]"]


def test_repeated_image_is_read_once(bench: Bench):
    noise = Image.effect_noise((2000, 2000), 90)
    noise.save(bench.workflows / "large.png")
    pictures = {"command": "gather_inputs", "inputs": [{"image": "large.png"}] * 2000}
    started = time.process_time()
    (step_,) = bench.plan(drawing(steps=[{"name": "a", "task": pictures}])).steps
    assert len(step_.calls) == 2000
    assert time.process_time() - started < LIMIT_S


@pytest.mark.parametrize(
    "document",
    [
        drawing(steps=[step(arguments={f"promp{n}": 1 for n in range(90_000)})]),
        drawing(steps=[step(f"s{n}", arguments={"prompt": "variable:pro"}) for n in range(5000)]),
        drawing(steps=[{"name": 3, **{f"nam{n}": 1 for n in range(90_000)}}]),
        drawing(steps=[{"name": f"s{n}", "nam": 1} for n in range(20_000)]),
        drawing(steps=[*[gathering(f"s{n}", 1) for n in range(9000)], {"name": "none"}]),
        drawing(steps=[step(arguments={"prompt": "previous_result:" + "a." * 500_000})]),
    ],
    ids=["arguments", "variables", "keys", "steps", "many steps", "dots"],
)  # fmt: skip
def test_document_wrong_everywhere_is_refused_in_time(bench: Bench, document: Any):
    started = time.process_time()
    assert 1 <= len(bench.refused(document).problems) <= 200
    assert time.process_time() - started < LIMIT_S
