"""Planning of tasks, and refusals before anything runs."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from app.dialect.plan import TaskStep
from app.dialect.plan_values import FileValue, ListValue, LiteralValue, ResultValue
from app.models import needs
from app.planning.request_keys import request_key
from app.tasks import REFUSED, TASKS
from app.tasks.detectors import DETECTORS
from tests.plan_bench import Bench, drawing, step, sub

ARGUMENTS = "steps[0].task.arguments"


def doing(command: str = "crop_square", name: str = "do", **arguments: Any) -> dict[str, Any]:
    """Returns a step of a task."""
    return {"name": name, "task": {"command": command, "arguments": arguments}}


def listing(command: str, *inputs: Any) -> dict[str, Any]:
    """Returns a step of a task with a list of inputs."""
    return {"name": "do", "task": {"command": command, "inputs": list(inputs)}}


def planned(bench: Bench, *steps: dict[str, Any], **inputs: Any) -> TaskStep:
    """Returns the last step of the plan, a task."""
    last = bench.plan(drawing(steps=list(steps)), **inputs).steps[-1]
    assert isinstance(last, TaskStep)
    return last


# --- what is planned -----------------------------------------------------------------------------


def test_task_may_be_only_step(bench: Bench):
    bench.picture("a.png", bench.workflows)
    found = planned(bench, doing("resize_rescale", image="a.png", width=32))
    assert (found.kind, found.command, found.name, found.place) == (
        "task", "resize_rescale", "do", "steps[0]",
    )  # fmt: skip
    (call,) = found.calls
    assert isinstance(call["image"], FileValue)
    assert call["width"] == LiteralValue(value=32)
    assert (found.title, found.sources) == ("task resize_rescale", ())


def test_task_passes_on_result_of_pipeline(bench: Bench):
    document = drawing(
        steps=[
            step(),
            doing("add_border_and_mask", "grow", image="previous_result:draw"),
            doing("crop_square", "cut", image="previous_result:grow.bordered_image"),
            step("again", arguments={"ip_adapter_image": "previous_result:cut"}),
        ]
    )
    plan = bench.plan(document)
    assert [found.kind for found in plan.steps] == ["pipeline", "task", "task", "pipeline"]
    cut = plan.steps[2]
    assert isinstance(cut, TaskStep)
    assert cut.calls[0]["image"] == ResultValue(step="grow", property="bordered_image")


def test_image_may_be_object_with_location(bench: Bench):
    upload = bench.picture()
    document = drawing(
        variables={"picture": "none.png"},
        steps=[doing(image={"location": "variable:picture", "media_type": "image"})],
    )
    (call,) = bench.plan(document, picture=str(upload)).steps[0].calls
    assert isinstance(call["image"], FileValue)
    assert call["image"].path == str(upload)


def test_result_passed_to_sub_workflow_may_be_a_location(bench: Bench):
    child = drawing(id="child", variables={"image": None},
                    steps=[doing(image={"location": "variable:image"})])  # fmt: skip
    bench.write(child, "child.json")
    plan = bench.plan(drawing(steps=[step(), sub("child.json", image="previous_result:draw")]))
    last = plan.steps[-1]
    assert isinstance(last, TaskStep)
    assert last.name == "sub/do"
    assert last.calls[0]["image"] == ResultValue(
        step="draw", handed_at="steps[1].workflow.arguments.image"
    )


def test_every_input_item_is_a_call(bench: Bench):
    found = planned(bench, listing("gather_inputs", "a fox", {"a": 1}, "variable:prompt"))
    values = [call["value"] for call in found.calls]
    assert values == [LiteralValue(value=v) for v in ("a fox", {"a": 1}, "a red circle")]
    messages = [{"system_prompt": "Be brief.", "user_message": word} for word in ("one", "two")]
    assert len(planned(bench, listing("format_chat_message", *messages)).calls) == 2


def test_typed_text_is_literal(bench: Bench):
    text = "previous_result:draw"
    found = planned(bench, step(), listing("gather_inputs", "variable:prompt"), prompt=text)
    assert found.calls == ({"value": LiteralValue(value=text)},)


def test_glob_gathers_files_in_order(bench: Bench):
    for name in ("b.png", "a.png", "c.jpg"):
        bench.picture(name, bench.workflows)
    (call,) = planned(bench, doing("gather_images", glob="*.png")).calls
    assert isinstance(call["images"], ListValue)
    paths = [value.path for value in call["images"].items if isinstance(value, FileValue)]
    assert [path.rpartition("/")[2] for path in paths] == ["a.png", "b.png"]


def test_request_key_of_task_changes_with_image(bench: Bench):
    picture = bench.picture("a.png", bench.workflows)
    document = drawing(steps=[doing(image="a.png")])
    keys = [request_key(bench.plan(document, seed=1)) for _ in range(2)]
    picture.write_bytes(bench.picture("b.bmp", bench.workflows).read_bytes())
    assert keys[0] == keys[1] != request_key(bench.plan(document, seed=1))


def test_device_is_accepted_with_warning(bench: Bench):
    bench.picture("a.png", bench.workflows)
    plan = bench.plan(drawing(steps=[doing(image="a.png", device="cuda")]))
    assert plan.warnings == ("crop_square uses no device: 'device' is left out.",)
    (found,) = plan.steps
    assert isinstance(found, TaskStep)
    assert list(found.calls[0]) == ["image"]


def test_workflow_of_tasks_needs_no_model_memory(bench: Bench):
    plan = bench.plan(drawing(steps=[listing("gather_inputs", 1)]))
    sentence = "drawing: no model is loaded."
    assert (needs.line(plan, None), needs.lines(plan, None)) == (sentence, [sentence])


# --- what is refused -----------------------------------------------------------------------------


def test_all_mistakes_of_tasks_are_reported(bench: Bench):
    saved_as_text = {"result": {"content_type": "text/plain"}}
    document = drawing(
        steps=[
            doing("resize_center_crop", "a", imge=3, height=0, width="wide"),
            doing("resize_centre_crop", "b", image="previous_result:a"),
            doing("gather_inputs", "c", x="previous_result:nowhere"),
            doing("crop_square", "d", image="missing.png") | saved_as_text,
        ]
    )
    assert bench.problems(document) == {
        f"{ARGUMENTS}": "'image' is missing.",
        f"{ARGUMENTS}.imge": "resize_center_crop takes no 'imge'. Did you mean 'image'?",
        f"{ARGUMENTS}.height": "0 is too small; 1 is the least.",
        f"{ARGUMENTS}.width": "A whole number is needed, not 'wide'.",
        "steps[1].task.command": "There is no task 'resize_centre_crop'. "
        "Did you mean 'resize_center_crop'?",
        "steps[2].task.arguments.x": "There is no earlier step 'nowhere'.",
        "steps[3].task.arguments.image": "There is no picture 'missing.png'.",
        "steps[3].result.content_type": "crop_square makes pictures, which cannot be saved as "
        "text/plain.",
    }


def test_reference_to_unknown_step_is_refused(bench: Bench):
    document = drawing(steps=[step(), doing(imag="previous_result:draw")])
    place = "steps[1].task.arguments"
    assert bench.problems(document) == {
        place: "'image' is missing.",
        f"{place}.imag": "crop_square takes no 'imag'. Did you mean 'image'?",
    }


def test_misspelt_key_of_task_result_is_refused(bench: Bench):
    bench.picture("a.png", bench.workflows)
    grow = doing("add_border_and_mask", "grow", image="a.png")
    misspelt = doing(name="a", image="previous_result:grow.bordered_imag")
    strange = doing(name="b", image="previous_result:grow.size")
    assert bench.problems(drawing(steps=[grow, misspelt, strange])) == {
        "steps[1].task.arguments.image": "Step 'grow' makes no 'bordered_imag'. "
        "Did you mean 'bordered_image'?",
        "steps[2].task.arguments.image": "Step 'grow' makes no 'size'. "
        "It makes: bordered_image, mask.",
    }


def test_every_task_of_dialect_exists_or_is_refused_by_name(bench: Bench):
    assert len(TASKS) + len(REFUSED) == len({*TASKS, *REFUSED}) == 57
    steps = [doing(command, command) for command in REFUSED]
    assert bench.problems(drawing(steps=steps)) == {
        f"steps[{number}].task.command": f"'{command}' cannot run here: {why}."
        for number, (command, why) in enumerate(REFUSED.items())
    }


@pytest.mark.parametrize("command", [*DETECTORS, "upscale"])
def test_task_needing_torchvision_reports_both_packages(bench: Bench, command: str):
    bench.picture("a.png", bench.workflows)
    package = "spandrel" if command == "upscale" else "controlnet_aux"
    version = "0.4.2" if command == "upscale" else "0.0.10"
    model = (
        {"model_name": "owner/name", "filename": "a.safetensors"} if command == "upscale" else {}
    )
    found = bench.problems(drawing(steps=[doing(command, image="a.png", **model)]))
    assert found == {
        "steps[0].task.command": f"'{command}' needs {package} and torchvision, which are not"
        f" installed. Add them with: pip install {package}=={version} torchvision==0.28.0"
    }


def test_task_of_missing_package_is_refused_with_command(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "cv2", None)
    bench.picture("a.png", bench.workflows)
    document = drawing(
        steps=[doing("canny", image="a.png"), doing("crop_square", "b", image="a.png")]
    )
    assert bench.problems(document) == {
        "steps[0].task.command": "'canny' needs opencv-python-headless, which is not installed. "
        "Add it with: pip install opencv-python-headless==5.0.0.93"
    }


def test_task_has_arguments_or_inputs(bench: Bench):
    both = {"command": "gather_inputs", "arguments": {}, "inputs": [1]}
    steps = [{"name": "a", "task": both}, {"name": "b", "task": {"command": "gather_inputs"}}]
    sentence = "A task has exactly one of 'arguments' and 'inputs'."
    assert bench.problems(drawing(steps=steps)) == {
        "steps[0].task": sentence,
        "steps[1].task": sentence,
    }


def test_inputs_are_non_empty_objects(bench: Bench):
    wrong = drawing(steps=[listing("crop_square", "a.png")])
    assert bench.problems(wrong) == {
        "steps[0].task.inputs[0]": "An object with the arguments is needed, not 'a.png'."
    }
    assert bench.problems(drawing(steps=[listing("gather_inputs")])) == {
        "steps[0].task.inputs": "There is nothing to do: the list is empty."
    }


def test_image_in_place_of_number_is_refused(bench: Bench):
    bench.picture("a.png", bench.workflows)
    picture = {"media_type": "image", "location": "a.png"}
    document = drawing(steps=[doing("resize_rescale", image="a.png", width=picture)])
    assert bench.problems(document) == {
        f"{ARGUMENTS}.width": "A whole number is needed, not a picture."
    }


def test_input_cannot_choose_task_or_pattern(bench: Bench):
    document = drawing(
        variables={"command": "crop_square", "files": "*.png"},
        steps=[doing("variable:command"), doing("gather_images", "g", glob="variable:files")],
    )
    assert bench.problems(document, command="qr_code", files="../**") == {
        "inputs.command": "An input cannot choose a task.",
        "inputs.files": "An input cannot choose files by a pattern.",
    }


@pytest.mark.parametrize("pattern", ["/etc/*", "../*.png", "a/../../*", "~/*.png", "a\0*"])
def test_glob_cannot_leave_workflow_folder(bench: Bench, pattern: str):
    assert bench.problems(drawing(steps=[doing("gather_images", glob=pattern)])) == {
        f"{ARGUMENTS}.glob": "The pattern leads out of the workflow's folder."
    }


def test_link_cannot_leave_workflow_folder(bench: Bench):
    (bench.workflows / "link.png").symlink_to(bench.picture("out.png", bench.model))
    (sentence,) = bench.problems(drawing(steps=[doing("gather_images", glob="*.png")])).values()
    assert "lies outside the folders" in sentence


def test_empty_gathering_is_refused(bench: Bench):
    documents = {
        f"{ARGUMENTS}.glob": doing("gather_images", glob="*.png"),
        ARGUMENTS: doing("gather_images"),
        f"{ARGUMENTS}.globe": doing("gather_images", globe="*.png", glob="*.json"),
    }
    for place, document in documents.items():
        assert place in bench.problems(drawing(steps=[document]))


def test_urls_and_glob_are_gathered_together(bench: Bench):
    bench.picture("a.png", bench.workflows)
    urls = ["https://example.org/a.png", "https://example.org/b"]
    document = drawing(steps=[doing("gather_images", glob="*.png", urls=urls)])
    found = planned(bench, *document["steps"]).calls[0]["images"]
    assert [item.type for item in found.items] == ["file", "remote", "remote"]
    wrong = drawing(steps=[doing("gather_images", urls="file:///etc/a.png")])
    assert bench.problems(wrong) == {
        f"{ARGUMENTS}.urls[0]": "'file:' is not fetched; http and https are."
    }


def test_file_base_name_of_task_cannot_leave_run_folder(bench: Bench):
    saved = doing("gather_inputs", a=1) | {
        "result": {"content_type": "application/json", "file_base_name": "../up"}
    }
    assert list(bench.problems(drawing(steps=[saved]))) == ["steps[0].result.file_base_name"]


@pytest.mark.parametrize("position", ["middle", "top", "variable:where"])
def test_unknown_watermark_position_is_a_warning(bench: Bench, position: str):
    bench.picture("a.png", bench.workflows)
    mark = {
        "command": "add_watermark",
        "arguments": {"image": {"location": "a.png"}, "position": position},
    }
    document = {
        "id": "marked",
        "variables": {"where": "middle"},
        "steps": [{"name": "mark", "task": mark, "result": {"content_type": "image/png"}}],
    }
    (warning,) = bench.plan(document).warnings
    assert warning.startswith("steps[0].task.arguments.position: '")
    assert warning.endswith("top-left, center; bottom-right is used.")
    mark["arguments"]["position"] = "center"
    assert bench.plan(document).warnings == ()
