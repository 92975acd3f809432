"""Sub-workflows: their steps are inlined into the plan."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.plan import ResultSpec, Rounds, SubWorkflowStep
from app.dialect.plan_values import FileValue, LiteralValue, ResultValue
from app.errors import InvalidInputs, InvalidWorkflow
from tests.plan_bench import MODEL, Bench, drawing, step, sub, told


def restyle() -> dict[str, Any]:
    """Returns a workflow that takes an image."""
    again = step(
        "again",
        configuration={"component_type": "StableDiffusionImg2ImgPipeline"},
        arguments={"image": "variable:image", "prompt": "variable:prompt"},
    )
    return drawing(variables={"image": None, "prompt": "a star"}, steps=[again])


def test_sub_workflow_steps_are_named_parent_slash_child(bench: Bench):
    bench.write(drawing(steps=[step("one"), step("two")]), "child.json")
    plan = bench.plan(drawing(steps=[step("start"), sub("child.json", "more")]))
    assert [planned.name for planned in plan.steps] == ["start", "more/one", "more/two"]
    assert plan.steps[2].place == "steps[1].workflow.steps[1]"


def test_sub_workflows_nest(bench: Bench):
    bench.write(drawing(), "inner.json")
    bench.write(drawing(steps=[sub("inner.json", "middle")]), "middle.json")
    plan = bench.plan(drawing(steps=[sub("middle.json", "outer")]))
    assert [planned.name for planned in plan.steps] == ["outer/middle/draw"]


def test_sub_workflow_may_be_used_twice(bench: Bench):
    bench.write(drawing(), "child.json")
    plan = bench.plan(drawing(steps=[sub("child.json", "a"), sub("child.json", "b")]))
    assert [planned.name for planned in plan.steps] == ["a/draw", "b/draw"]


def test_arguments_set_sub_workflow_variables(bench: Bench):
    bench.write(drawing(), "child.json")
    document = drawing(steps=[sub("child.json", prompt="a blue star", steps="variable:steps")])
    (planned,) = bench.plan(document, steps=7).steps
    assert planned.arguments == {
        "prompt": LiteralValue(value="a blue star"),
        "num_inference_steps": LiteralValue(value=7),
    }


def test_sub_workflow_runs_once_per_passed_result(bench: Bench):
    bench.write(restyle(), "child.json")
    plan = bench.plan(drawing(steps=[step(), sub("child.json", image="previous_result:draw")]))
    drawn, again = plan.steps
    handed = ResultValue(step="draw", handed_at="steps[1].workflow.arguments.image")
    assert again.arguments["image"] == handed
    assert again.rounds == (Rounds(step="sub", references=(handed,)),)
    assert drawn.rounds == ()


def test_result_passed_on_adds_no_iterations(bench: Bench):
    bench.write(restyle(), "inner.json")
    middle = drawing(
        variables={"image": None},
        steps=[step("mine", arguments={"prompt": "a"}), sub("inner.json", image="variable:image"),
               sub("inner.json", "other", image="previous_result:mine")],
    )  # fmt: skip
    bench.write(middle, "middle.json")
    document = drawing(steps=[step(), sub("middle.json", "outer", image="previous_result:draw")])
    _, mine, same, further = bench.plan(document).steps
    assert [rounds.step for rounds in mine.rounds] == ["outer"]
    assert same.rounds == mine.rounds
    assert [rounds.step for rounds in further.rounds] == ["outer", "outer/other"]


def test_parent_image_is_passed_as_file(bench: Bench):
    bench.write(restyle(), "child.json")
    file = bench.picture("beside.png", bench.workflows)
    plan = bench.plan(drawing(steps=[sub("child.json", image="beside.png")]))
    value = plan.steps[0].arguments["image"]
    assert isinstance(value, FileValue)
    assert value.path == str(file.resolve())


def test_sub_workflow_result_is_that_of_last_step(bench: Bench):
    bench.write(drawing(steps=[step("one"), step("two")]), "child.json")
    after = restyle()["steps"][0]
    after["pipeline"]["arguments"] = {"image": "previous_result:sub"}
    plan = bench.plan(drawing(steps=[sub("child.json"), after]))
    assert plan.steps[2].arguments["image"] == ResultValue(step="sub/two")


def test_result_block_saves_sub_workflow_results_again(bench: Bench):
    bench.write(drawing(id="inner", steps=[step("one"), step("two")]), "child.json")
    saving = sub("child.json") | {"result": {"content_type": "image/jpeg"}}
    after = restyle()["steps"][0]
    after["pipeline"]["arguments"] = {"image": "previous_result:sub"}
    *_, again, last = bench.plan(drawing(steps=[saving, after])).steps
    assert isinstance(again, SubWorkflowStep)
    assert (again.name, again.last, again.file_stem) == ("sub", "sub/two", "drawing-sub.0")
    assert again.result == ResultSpec(content_type="image/jpeg")
    assert last.arguments["image"] == ResultValue(step="sub/two")


def test_sub_workflow_cannot_refer_to_parent_steps(bench: Bench):
    child = restyle()
    child["steps"][0]["pipeline"]["arguments"]["image"] = "previous_result:draw"
    bench.write(child, "child.json")
    assert bench.problems(drawing(steps=[step(), sub("child.json")])) == {
        "steps[1].workflow.steps[0].pipeline.arguments.image": "There is no earlier step 'draw'."
    }


def test_parent_seed_is_default_of_sub_workflow(bench: Bench):
    bench.write(drawing(), "none.json")
    bench.write(drawing(seed=3), "own.json")
    steps = [sub("none.json", "a"), sub("own.json", "b"), sub("none.json", "c") | {"seed": 5}]
    plan = bench.plan(drawing(steps=steps), seed=9)
    assert [planned.seed for planned in plan.steps] == [9, 3, 5]


def test_builtin_path_works_from_anywhere(bench: Bench):
    (planned,) = bench.plan(drawing(steps=[sub("builtin:sdxl.json", prompt="a tree")])).steps
    assert planned.pipeline_class == "diffusers.StableDiffusionXLPipeline"
    assert planned.arguments["prompt"] == LiteralValue(value="a tree")


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../outside.json", "/etc/passwd", "/etc/x.json", "builtin:../app/x.json",
             "builtin:a/b.json", "variable:prompt", "previous_result:x", "child.txt", ""]
)  # fmt: skip
def test_path_outside_folder_is_refused(bench: Bench, path: str):
    (bench.workflows.parent / "outside.json").write_text("{}")
    (bench.workflows / "child.txt").write_text("{}")
    document = drawing(steps=[sub("child.json") | {"workflow": {"path": path}}])
    places = {"steps[0].workflow.path"}
    if path == "variable:prompt":  # becomes the variable's text, which is no file
        document["variables"]["prompt"] = "previous_result:x"
    assert set(bench.problems(document)) == places


def test_link_out_of_folder_is_not_followed(bench: Bench):
    outside = bench.workflows.parent / "outside.json"
    outside.write_text("{}")
    (bench.workflows / "link.json").symlink_to(outside)
    assert bench.problems(drawing(steps=[sub("link.json")])) == {
        "steps[0].workflow.path": "'link.json' lies outside the folder of 'flow.json'."
    }


def test_missing_sub_workflow_suggests_nearest(bench: Bench):
    bench.write(drawing(), "child.json")
    sentence = bench.problems(drawing(steps=[sub("chilt.json")]))["steps[0].workflow.path"]
    assert sentence.endswith("Did you mean 'child'?")


def test_workflow_cannot_run_itself(bench: Bench):
    assert bench.problems(drawing(steps=[sub("flow.json")])) == {
        "steps[0].workflow.path": "'flow.json' would run itself again without end."
    }


def test_two_workflows_cannot_run_each_other(bench: Bench):
    bench.write(drawing(steps=[sub("flow.json")]), "other.json")
    assert bench.problems(drawing(steps=[sub("other.json")])) == {
        "steps[0].workflow.steps[0].workflow.path": "'flow.json' would run itself again "
        "without end."
    }


def test_nesting_of_workflows_is_limited(bench: Bench):
    for number in range(20):
        bench.write(drawing(steps=[sub(f"n{number + 1}.json")]), f"n{number}.json")
    bench.write(drawing(), "n20.json")
    assert len(bench.problems(drawing(steps=[sub("n0.json")]))) == 1


def test_mistakes_in_sub_workflow_have_full_place(bench: Bench):
    child = drawing(steps=[step(arguments={"width": 96, "promt": 1, "prompt": "variable:x"})])
    child["steps"][0]["pipeline"]["configuration"]["component_type"] = "FluxPipeline"
    bench.write(child, "child.json")
    arguments = "steps[1].workflow.steps[0].pipeline.arguments"
    error = bench.refused(drawing(steps=[step(), sub("child.json")]))
    assert isinstance(error, InvalidWorkflow)
    assert told(error) == {
        f"{arguments}.promt": "FluxPipeline takes no 'promt'. Did you mean 'prompt'?",
        f"{arguments}.prompt": "There is no variable 'x'.",
    }


def test_sub_workflow_with_broken_json_is_refused_with_line(bench: Bench):
    bench.write('{"id": "x",\n oops}', "child.json")
    ((place, _),) = bench.problems(drawing(steps=[sub("child.json")])).items()
    assert place.startswith("steps[0].workflow.path")
    assert place.endswith("line 2, column 2")


def test_unknown_arguments_of_sub_workflow_are_refused(bench: Bench):
    bench.write(restyle(), "child.json")
    document = drawing(
        steps=[step(), sub("child.json", promt="a", imag="previous_result:draw", prompt=["a"])]
    )
    arguments = "steps[1].workflow.arguments"
    assert bench.problems(document) == {
        f"{arguments}.promt": "This workflow has no variable 'promt'. Did you mean 'prompt'?",
        f"{arguments}.imag": "The sub-workflow has no variable 'imag'. Did you mean 'image'?",
        f"{arguments}.prompt": 'A text is needed, not ["a"].',
    }


def with_model() -> dict[str, Any]:
    """Returns a workflow whose model is a variable."""
    return drawing(
        variables={**drawing()["variables"], "model": MODEL},
        steps=[step(from_pretrained_arguments={"model_name": "variable:model"})],
    )


def test_typed_value_is_reported_at_its_input(bench: Bench):
    bench.write(with_model(), "child.json")
    document = drawing(
        variables={"chosen": MODEL}, steps=[sub("child.json", model="variable:chosen")]
    )
    error = bench.refused(document, chosen="/etc")
    assert isinstance(error, InvalidInputs)
    assert told(error) == {"inputs.chosen": "'/etc' lies outside the folders of models."}


def test_parent_value_is_reported_in_parent(bench: Bench):
    bench.write(with_model(), "child.json")
    error = bench.refused(drawing(steps=[sub("child.json", model="/etc")]))
    assert isinstance(error, InvalidWorkflow)
    assert list(told(error)) == ["steps[0].workflow.arguments.model"]
