"""What decides what a step makes, and which steps have to run when results are known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from app.workflow.plan import PipelineStep, ResultSpec
from app.workflow.plan_settings import SchedulerChange
from app.workflow.plan_sources import ModelSource
from app.workflow.plan_values import (
    ImageValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    ResultValue,
    Value,
)
from app.workflow.result_keys import result_key, steps_to_run

EARLIER = {"before": "k1", "other": "k2", "random": None}


def step(name: str = "draw", *refers_to: str, saves: bool = True, **changes: Any) -> PipelineStep:
    arguments: dict[str, Value] = {"prompt": LiteralValue(value="a red circle")}
    arguments |= {f"image{n}": ResultValue(step=other) for n, other in enumerate(refers_to)}
    fields: dict[str, Any] = {
        "name": name,
        "place": "steps[0]",
        "pipeline_class": "diffusers.StableDiffusionPipeline",
        "source": ModelSource(model="a"),
        "arguments": arguments,
        "seed": 7,
        "result": ResultSpec(content_type="image/png") if saves else None,
    }
    return PipelineStep(**{**fields, **changes})


def key(
    of: PipelineStep,
    loaded: str = "a",
    machine: str = "cpu",
    earlier: Mapping[str, str | None] = EARLIER,
) -> str | None:
    return result_key(of, loaded=loaded, machine=machine, earlier=earlier)


def given(value: Value) -> PipelineStep:
    return step(arguments={"image": value})


# --- what decides --------------------------------------------------------------------------------


def test_what_a_step_is_called_and_how_its_files_are_written_decide_nothing():
    renamed = step("sketch", place="steps[4]", result=ResultSpec(content_type="image/webp"))
    assert key(step()) == key(renamed)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 8},
        {"arguments": {"prompt": LiteralValue(value="a red circle ")}},
        {"arguments": {"prompt": LiteralValue(value=["a red circle"])}},
        {"scheduler": SchedulerChange()},
        {"scheduler": SchedulerChange(shift=3.0)},
        {"offload": "model"},
        {"vae_tiling": True},
        {"vae_slicing": True},
    ],
    ids=str,
)
def test_whatever_changes_the_result_changes_the_key(changed: dict[str, Any]):
    assert key(step()) != key(step(**changed))


def test_other_weights_and_another_machine_are_another_result():
    assert len({key(step()), key(step(), loaded="b"), key(step(), machine="cuda:0")}) == 3


def test_a_picture_counts_by_its_content_wherever_it_lies():
    one, moved, other = (
        ImageValue(path=path, sha256=sha256)
        for path, sha256 in (("/a.png", "1"), ("/b.png", "1"), ("/a.png", "2"))
    )
    for wrap in (
        lambda value: value,
        lambda value: ListValue(items=(value,)),
        lambda value: ObjectValue(entries={"image": value}),
    ):
        assert key(given(wrap(one))) == key(given(wrap(moved)))
        assert key(given(wrap(one))) != key(given(wrap(other)))


def test_a_result_counts_by_what_made_it_and_by_what_is_taken_of_it():
    references = [
        ResultValue(step="before"),
        ResultValue(step="other"),
        ResultValue(step="before", property="width"),
        ResultValue(step="before", handed_at="steps[1].workflow.arguments.image"),
    ]
    assert len({key(given(reference)) for reference in references}) == 4
    renamed = {"sketch": EARLIER["before"]}
    assert key(given(references[0])) == key(given(ResultValue(step="sketch")), earlier=renamed)


def test_the_order_of_two_references_is_the_order_of_the_results():
    one, other = ResultValue(step="before"), ResultValue(step="other")
    in_order = step(arguments={"image": one, "mask_image": other})
    assert key(in_order) != key(step(arguments={"mask_image": other, "image": one}))


# --- what has no key -----------------------------------------------------------------------------


def test_a_step_whose_seed_was_drawn_has_no_key():
    assert key(step(seed_drawn=True)) is None


def test_a_step_without_a_generator_has_no_key():
    assert key(step(generator=False)) is None


def test_a_step_that_depends_on_one_without_a_key_has_none_however_deep_the_reference():
    random = ResultValue(step="random")
    assert key(given(ListValue(items=(ObjectValue(entries={"image": random}),)))) is None


# --- which steps run -----------------------------------------------------------------------------

CHAIN = [step("a"), step("b", "a"), step("c", "b")]
HIDDEN = [step("a", saves=False), step("b", "a", saves=False), step("c", "b")]


@pytest.mark.parametrize(
    ("steps", "known", "running"),
    [
        (CHAIN, "", "abc"),
        (CHAIN, "ab", "c"),
        (CHAIN, "abc", ""),
        (CHAIN, "bc", "a"),
        (HIDDEN, "c", ""),
        (HIDDEN, "b", "c"),
        (HIDDEN, "a", "bc"),
        (HIDDEN, "", "abc"),
    ],
)
def test_a_step_runs_when_its_files_are_wanted_or_a_step_that_runs_needs_it(
    steps: list[PipelineStep], known: Collection[str], running: str
):
    assert steps_to_run(steps, known) == set(running)


def test_a_step_that_saves_nothing_and_that_nobody_refers_to_runs_all_the_same():
    assert steps_to_run([step("a", saves=False), step("b")], "b") == {"a"}
