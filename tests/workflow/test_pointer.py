"""One value of a document, changed for one run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidWorkflow
from app.workflow.plan_values import FileValue, LiteralValue
from app.workflow.planning.planner import make_plan
from app.workflow.request import with_changes
from tests.workflow.bench import Bench, drawing, step, sub, told

ONLY = (
    "Only /seed and what stands below /steps can be set."
    " A variable is given by its name: name=value."
)
ARGUMENTS = "/steps/0/pipeline/arguments"


def changed(bench: Bench, document: Any, **changes: Any) -> Any:
    """The plan with these changes, `/` in their names written as they are."""
    return make_plan(bench.write(document), {}, paths=bench.paths, changes=changes)


def refused(bench: Bench, document: Any, **changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidWorkflow) as caught:
        changed(bench, document, **changes)
    return told(caught.value)


def test_a_value_is_another_one_in_this_run_and_the_plan_says_so(bench: Bench) -> None:
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/num_inference_steps": 8})
    assert plan.steps[0].arguments["num_inference_steps"] == LiteralValue(value=8)
    assert plan.changes == {f"{ARGUMENTS}/num_inference_steps": 8}


def test_the_document_and_its_hash_stay_as_they_are(bench: Bench) -> None:
    plain = changed(bench, drawing())
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/num_inference_steps": 8})
    assert (plan.document, plan.workflow_hash) == (plain.document, plain.workflow_hash)


def test_an_argument_the_document_does_not_have_is_added(bench: Bench) -> None:
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/width": 64})
    assert plan.steps[0].arguments["width"] == LiteralValue(value=64)


def test_the_seed_can_be_set(bench: Bench) -> None:
    assert changed(bench, drawing(seed=1), **{"/seed": 5}).seed == 5


@pytest.mark.parametrize("text", ["variable:steps", "previous_result:draw", "constant:os.environ"])
def test_what_is_set_refers_to_nothing(bench: Bench, text: str) -> None:
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/prompt": text})
    assert plan.steps[0].arguments["prompt"] == LiteralValue(value=text)


def test_what_is_set_chooses_no_class(bench: Bench) -> None:
    pointer = "/steps/0/pipeline/configuration/component_type"
    assert refused(bench, drawing(), **{pointer: "FluxPipeline"}) == {
        "steps[0].pipeline.configuration.component_type": "An input cannot choose a class."
    }


def test_what_is_set_chooses_no_sub_workflow(bench: Bench) -> None:
    bench.write(drawing(), "child.json")
    document = drawing(steps=[sub("child.json")])
    assert refused(bench, document, **{"/steps/0/workflow/path": "other.json"}) == {
        "steps[0].workflow.path": "An input cannot choose a sub-workflow."
    }


def test_a_model_comes_from_the_folders_of_models(bench: Bench, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pointer = "/steps/0/pipeline/from_pretrained_arguments/model_name"
    (wrong,) = refused(bench, drawing(), **{pointer: str(elsewhere)}).values()
    assert wrong == f"'{elsewhere}' lies outside the folders of models."


def test_a_picture_comes_from_the_folders_of_pictures(bench: Bench) -> None:
    img2img = step(configuration={"component_type": "StableDiffusionImg2ImgPipeline"})
    picture = bench.picture()
    plan = changed(bench, drawing(steps=[img2img]), **{f"{ARGUMENTS}/image": str(picture)})
    assert isinstance(plan.steps[0].arguments["image"], FileValue)
    (wrong,) = refused(
        bench, drawing(steps=[img2img]), **{f"{ARGUMENTS}/image": "/etc/passwd"}
    ).values()
    assert wrong == "The picture '/etc/passwd' lies outside the folders it may come from."


@pytest.mark.parametrize(
    ("pointer", "sentence"),
    [
        ("/variables/steps", ONLY),
        ("steps", ONLY),
        ("/steps/3/pipeline/seed", "The list has 1 items, and none at '3'."),
        ("/steps/-", "The list has 1 items, and none at '-'."),
        ("/steps/0/pipelin/seed", "There is no 'pipelin'. Did you mean 'pipeline'?"),
        ("/steps/0/name/first", "'name' has no parts."),
    ],
)  # fmt: skip
def test_a_pointer_that_leads_nowhere_is_said(bench: Bench, pointer: str, sentence: str) -> None:
    assert refused(bench, drawing(), **{pointer: 1}) == {pointer: sentence}


def test_everything_that_is_wrong_is_told_at_once(bench: Bench) -> None:
    wrong = refused(bench, drawing(), **{"/steps/7": 1, f"{ARGUMENTS}/num_inference_steps": 0})
    assert set(wrong) == {"/steps/7", "steps[0].pipeline.arguments.num_inference_steps"}


trees = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)


@given(trees, st.data())
def test_every_place_of_a_document_has_its_pointer(tree: Any, data: st.DataObject) -> None:
    document = {"steps": tree, "other": 1}
    words, value = ["steps"], tree
    while isinstance(value, list | dict) and value and data.draw(st.booleans()):
        keys = range(len(value)) if isinstance(value, list) else sorted(value)
        key = data.draw(st.sampled_from(keys))
        words.append(str(key))
        value = value[key]
    pointer = "".join("/" + word.replace("~", "~0").replace("/", "~1") for word in words)
    result, (path,), problems = with_changes(document, {pointer: "set"})
    assert not problems
    found: Any = result
    for key in path:
        found = found[key]
    assert found == "set"
    assert document == {"steps": tree, "other": 1}, "the document itself is left alone"


def test_of_many_changes_that_lead_nowhere_the_first_are_told():
    tree = {"steps": [{f"key{n}": n for n in range(900)}]}
    changes = {f"/steps/0/kye{n}/a": n for n in range(1000)}
    changed, places, problems = with_changes(tree, changes)
    assert (changed, places) == (tree, frozenset())
    assert len(problems) == 21
    assert problems[-1].message == "980 more changes were not looked at."
