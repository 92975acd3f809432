"""Changes of single values of a document for one run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.plan_values import FileValue, LiteralValue
from app.dialect.request import with_changes
from app.errors import InvalidWorkflow
from app.planning.planner import make_plan
from tests.plan_bench import Bench, drawing, step, sub, told

ONLY = "Only /seed and values below /steps can be set. A variable is given by its name: name=value."
ARGUMENTS = "/steps/0/pipeline/arguments"


def changed(bench: Bench, document: Any, **changes: Any) -> Any:
    """Returns the plan with these changes; `/` in their names is unescaped."""
    return make_plan(bench.write(document), {}, paths=bench.paths, changes=changes)


def refused(bench: Bench, document: Any, **changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidWorkflow) as caught:
        changed(bench, document, **changes)
    return told(caught.value)


def test_changed_value_is_in_plan(bench: Bench) -> None:
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/num_inference_steps": 8})
    assert plan.steps[0].arguments["num_inference_steps"] == LiteralValue(value=8)
    assert plan.changes == {f"{ARGUMENTS}/num_inference_steps": 8}


def test_document_and_hash_stay_unchanged(bench: Bench) -> None:
    plain = changed(bench, drawing())
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/num_inference_steps": 8})
    assert (plan.document, plan.workflow_hash) == (plain.document, plain.workflow_hash)


def test_new_argument_is_added(bench: Bench) -> None:
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/width": 64})
    assert plan.steps[0].arguments["width"] == LiteralValue(value=64)


def test_seed_can_be_changed(bench: Bench) -> None:
    assert changed(bench, drawing(seed=1), **{"/seed": 5}).seed == 5


@pytest.mark.parametrize("text", ["variable:steps", "previous_result:draw", "constant:os.environ"])
def test_changed_value_is_not_a_reference(bench: Bench, text: str) -> None:
    plan = changed(bench, drawing(), **{f"{ARGUMENTS}/prompt": text})
    assert plan.steps[0].arguments["prompt"] == LiteralValue(value=text)


def test_changed_value_cannot_choose_class(bench: Bench) -> None:
    pointer = "/steps/0/pipeline/configuration/component_type"
    assert refused(bench, drawing(), **{pointer: "FluxPipeline"}) == {
        "steps[0].pipeline.configuration.component_type": "An input cannot choose a class."
    }


def test_changed_value_cannot_choose_sub_workflow(bench: Bench) -> None:
    bench.write(drawing(), "child.json")
    document = drawing(steps=[sub("child.json")])
    assert refused(bench, document, **{"/steps/0/workflow/path": "other.json"}) == {
        "steps[0].workflow.path": "An input cannot choose a sub-workflow."
    }


def test_changed_model_must_be_in_model_folders(bench: Bench, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pointer = "/steps/0/pipeline/from_pretrained_arguments/model_name"
    (wrong,) = refused(bench, drawing(), **{pointer: str(elsewhere)}).values()
    assert wrong == f"'{elsewhere}' lies outside the folders of models."


def test_changed_image_must_be_in_media_folders(bench: Bench) -> None:
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
def test_wrong_pointer_is_refused(bench: Bench, pointer: str, sentence: str) -> None:
    assert refused(bench, drawing(), **{pointer: 1}) == {pointer: sentence}


def test_all_wrong_changes_are_reported(bench: Bench) -> None:
    wrong = refused(bench, drawing(), **{"/steps/7": 1, f"{ARGUMENTS}/num_inference_steps": 0})
    assert set(wrong) == {"/steps/7", "steps[0].pipeline.arguments.num_inference_steps"}


trees = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)


@given(trees, st.data())
def test_every_place_has_a_pointer(tree: Any, data: st.DataObject) -> None:
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


def test_many_wrong_changes_are_reported_up_to_limit():
    tree = {"steps": [{f"key{n}": n for n in range(900)}]}
    changes = {f"/steps/0/kye{n}/a": n for n in range(1000)}
    changed, places, problems = with_changes(tree, changes)
    assert (changed, places) == (tree, frozenset())
    assert len(problems) == 21
    assert problems[-1].message == "980 more changes were not checked."
