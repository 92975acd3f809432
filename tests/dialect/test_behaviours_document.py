"""Rules of documents, from the dialect's own test suite, in our words."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import shortened
from tests.plan_bench import Bench, drawing, step

PIPELINE = "steps[0].pipeline"
SD = "StableDiffusionPipeline"


def planned(bench: Bench, **changes: Any) -> Any:
    """Returns the only step of a plan, with these keys in its pipeline block."""
    (found,) = bench.plan(drawing(steps=[step(**changes)])).steps
    return found


def test_missing_steps_are_named(bench: Bench):
    assert bench.problems({"id": "x"}) == {"steps": "'steps' is missing."}


def test_variable_may_be_null(bench: Bench):
    assert bench.plan(drawing(variables={"prompt": None, "steps": 2})).inputs["prompt"] is None


@pytest.mark.parametrize("flag", ["release_pipeline", "release_models"])
def test_release_flag_is_boolean(bench: Bench, flag: str):
    right = drawing(steps=[step(), step("b") | {"release_pipeline": True}])
    assert len(bench.plan(right).steps) == 2
    assert list(bench.problems(drawing(steps=[step() | {flag: "true"}]))) == [f"steps[0].{flag}"]


@pytest.mark.parametrize(
    ("block", "shift", "class_name"),
    [
        ({"shift": 3.0}, 3.0, None),
        ({"configuration": {"scheduler_type": "EulerDiscreteScheduler"}}, None,
         "diffusers.EulerDiscreteScheduler"),
        ({"configuration": {"scheduler_type": "FlowMatchEulerDiscreteScheduler"}, "shift": 2}, 2,
         "diffusers.FlowMatchEulerDiscreteScheduler"),
        ({"shift": "variable:steps"}, 20, None),
    ],
    ids=["shift", "class", "both", "variable"],
)  # fmt: skip
def test_a_scheduler_is_replaced_shifted_or_both(
    bench: Bench, block: dict[str, Any], shift: float | None, class_name: str | None
):
    found = planned(bench, scheduler=block).scheduler
    assert (found.shift, found.class_name) == (shift, class_name)


@pytest.mark.parametrize("block", [{}, {"shift": -1}, {"shift": 0}, {"from_config_args": {}}])
def test_empty_scheduler_block_is_refused(bench: Bench, block: dict[str, Any]):
    (place,) = bench.problems(drawing(steps=[step(scheduler=block)]))
    assert place.startswith(f"{PIPELINE}.scheduler")


def test_unknown_keys_are_refused_only_in_pipeline_configuration(bench: Bench):
    named = {"component_type": SD, "colour": "red"}
    assert list(bench.problems(drawing(steps=[step(configuration=named)]))) == [
        f"{PIPELINE}.configuration.colour"
    ]
    inner = {"component_type": SD, "vae": {"colour": "red"}}
    assert len(bench.plan(drawing(steps=[step(configuration=inner)])).warnings) == 1


def test_planning_leaves_document_unchanged(bench: Bench):
    document = drawing(
        steps=[
            step(
                vae={
                    "configuration": {"component_type": "AutoencoderKL"},
                    "from_pretrained_arguments": {"model_name": "a/b"},
                }
            )
        ]
    )
    plan = bench.plan(document)
    assert plan.document == document
    assert bench.plan(document).document == document


@pytest.mark.parametrize(
    ("name", "fits"),
    [("prompt", True), ("_x", True), ("a-b", True), ("1a", False), ("a b", False), ("", False),
     ("a.b", False), ("x" * 101, False)],
)  # fmt: skip
def test_variable_names(bench: Bench, name: str, fits: bool):
    document = drawing(variables={"prompt": "a", "steps": 1, name: "a"})
    if fits:
        assert name in bench.plan(document).inputs
    else:
        (told,) = bench.problems(document).values()
        assert told.startswith(f"'{shortened(name)}' is not a name for a variable.")


def test_dotted_step_name_wins_over_property(bench: Bench):
    steps = [
        step("a"),
        step("a.images"),
        step("c", arguments={"prompt": "previous_result:a.images"}),
    ]
    (value,) = bench.plan(drawing(steps=steps)).steps[2].arguments.values()
    assert (value.step, value.property) == ("a.images", "")
