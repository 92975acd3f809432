"""Planning of tasks with models: sources, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.dialect.plan import TaskStep
from app.dialect.plan_sources import ModelSource
from app.errors import InvalidWorkflow
from app.planning.planner import make_plan
from app.planning.request_keys import request_key
from app.tasks import TASKS
from app.tasks.detectors import DETECTORS
from tests.plan_bench import Bench, Document, drawing, step, sub

ARGUMENTS = "steps[0].task.arguments"
LANGUAGE, VISION = "Qwen/Qwen2.5-1.5B-Instruct", "HuggingFaceTB/SmolVLM-256M-Instruct"


def doing(command: str, name: str = "do", **arguments: Any) -> Document:
    return {"name": name, "task": {"command": command, "arguments": arguments}}


@pytest.fixture
def local(bench: Bench) -> str:
    """A local model, by a path from the workflow's folder."""
    folder = bench.model.parent / "language"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return "../models/language"


def planned(bench: Bench, *steps: Document, **inputs: Any) -> TaskStep:
    last = bench.plan(drawing(steps=list(steps)), **inputs).steps[-1]
    assert isinstance(last, TaskStep)
    return last


# --- what is planned -----------------------------------------------------------------------------


def test_task_loads_default_or_named_model(bench: Bench, local: str):
    bench.picture("a.png", bench.workflows)
    assert planned(bench, doing("text_generation", prompt="x")).sources == (
        ModelSource(model=LANGUAGE),
    )
    seeing = planned(bench, doing("text_generation", prompt="x", image="a.png"))
    assert seeing.sources == (ModelSource(model=VISION),)
    assert list(seeing.components) == ["model", "tokenizer", "image_processor"]
    named = planned(bench, doing("text_generation", prompt="x", model_name=local))
    assert named.sources[0].folder == str((bench.model.parent / "language").resolve())


def test_repository_is_searched_in_model_folders(bench: Bench):
    folder = bench.model.parent / LANGUAGE
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    found = planned(bench, doing("text_generation", prompt="x")).sources
    assert found == (ModelSource(model=LANGUAGE, folder=str(folder.resolve())),)


def test_two_models_of_one_task_have_different_names(bench: Bench, local: str):
    bench.picture("a.png", bench.workflows)
    found = planned(bench, doing("segment", image="a.png", prompt="cat", sam_model_name=local))
    detector, segmenter = found.components["detector"], found.components["segmenter"]
    assert detector.source.model == "IDEA-Research/grounding-dino-base"
    assert segmenter.source.model == local


def test_task_without_randomness_takes_no_seed(bench: Bench):
    greedy = planned(bench, doing("text_generation", prompt="x"))
    drawn = doing("text_generation", prompt="x", generate_kwargs={"do_sample": True})
    assert not greedy.takes_seed
    assert planned(bench, drawn).takes_seed


def test_request_key_changes_with_model(bench: Bench, local: str):
    def key(**arguments: Any) -> str:
        document = drawing(steps=[doing("text_generation", prompt="x", **arguments)])
        return request_key(bench.plan(document, seed=1))

    assert key() == key()
    assert key() != key(model_name=local)
    before = key(model_name=local)
    (Path(bench.workflows) / local / "model.safetensors").write_bytes(b"other weights")
    assert before != key(model_name=local)


def test_cpu_is_the_only_device_choice(bench: Bench):
    def on_cpu(**arguments: Any) -> bool:
        return planned(bench, doing("text_generation", prompt="x", **arguments)).on_cpu

    assert not on_cpu()
    assert on_cpu(device="cpu")
    assert not on_cpu(device="cuda")
    document = drawing(steps=[doing("text_generation", prompt="x", device="tpu")])
    assert bench.problems(document) == {
        f"{ARGUMENTS}.device": "'tpu' is no device. Use 'cpu', or leave it out."
    }


def test_released_models_of_steps(bench: Bench):
    release = {"release_pipeline": True, "release_models": True}
    child = drawing(id="child", steps=[step("draw"), doing("text_generation", "tell", prompt="x")])
    bench.write(child, "child.json")
    plan = bench.plan(
        drawing(
            steps=[
                doing("text_generation", "first", prompt="x"),
                sub("child.json", "sub") | release,
                step("last") | {"release_pipeline": True},
            ]
        )
    )
    leaving = {found.name: found.releases for found in plan.steps}
    assert leaving == {
        "first": (),
        "sub/draw": (),
        "sub/tell": ("sub/draw", "first", "sub/tell"),
        "last": ("last",),
    }


# --- what is refused -----------------------------------------------------------------------------


def test_all_mistakes_of_task_with_model_are_reported(bench: Bench):
    document = drawing(
        steps=[
            doing("text_generation", promt="x", max_new_tokens=0,
                  generate_kwargs={"tempreature": 1, "top_p": 2.0}),
            doing("image_to_text", "see", image="missing.png", model_name="../models/none"),
            doing("segment", "cut", image="missing.png"),
        ]
    )  # fmt: skip
    assert bench.problems(document) == {
        ARGUMENTS: "'prompt' is missing.",
        f"{ARGUMENTS}.promt": "text_generation takes no 'promt'. Did you mean 'prompt'?",
        f"{ARGUMENTS}.max_new_tokens": "0 is too small; 1 is the least.",
        f"{ARGUMENTS}.generate_kwargs.tempreature": "text_generation takes no 'tempreature'.",
        f"{ARGUMENTS}.generate_kwargs.top_p": "2.0 is too large; 1 is the most.",
        "steps[1].task.arguments.image": "There is no picture 'missing.png'.",
        "steps[2].task.arguments": "'prompt' is missing.",
        "steps[2].task.arguments.image": "There is no picture 'missing.png'.",
    }


def test_missing_or_invalid_model_is_refused_with_place(bench: Bench):
    bench.picture("a.png", bench.workflows)
    document = drawing(
        steps=[
            doing("text_generation", prompt="x", model_name="../models/languag"),
            doing("depth", "see", image="a.png", model_name="../models/tiny"),
            doing("segment", "cut", image="a.png", prompt="cat", sam_model_name="a/b/c"),
        ]
    )
    found = bench.problems(document)
    assert found[f"{ARGUMENTS}.model_name"].startswith("There is no model folder")
    assert found["steps[1].task.arguments.model_name"] == (
        "'../models/tiny' is not a model: it has no config.json."
    )
    assert "steps[2].task.arguments.sam_model_name" in found


def test_result_cannot_name_model_and_input_only_local_one(bench: Bench):
    steps = [
        doing("gather_inputs", "name", a="x"),
        doing("text_generation", prompt="x", model_name="previous_result:name.a"),
    ]
    assert bench.problems(drawing(steps=steps)) == {
        "steps[1].task.arguments.model_name": "A model is named in the document; no step can"
        " name it."
    }
    document = drawing(
        variables={"model": LANGUAGE},
        steps=[doing("text_generation", prompt="x", model_name="variable:model")],
    )
    assert list(bench.problems(document, model="/etc")) == ["inputs.model"]


def test_inputs_of_one_step_share_models(bench: Bench, local: str):
    inputs = [{"prompt": "x"}, {"prompt": "y", "model_name": local}]
    document = drawing(
        steps=[{"name": "do", "task": {"command": "text_generation", "inputs": inputs}}]
    )
    assert bench.problems(document) == {
        "steps[0].task.inputs[1]": "All inputs of one step have to need the same models."
    }


def test_release_pipeline_is_refused_for_task(bench: Bench):
    document = drawing(steps=[doing("text_generation", prompt="x") | {"release_pipeline": True}])
    assert bench.problems(document) == {
        "steps[0].release_pipeline": "A task has no pipeline. Release its models with"
        " 'release_models'."
    }


def test_trust_remote_code_is_refused_for_text_task(bench: Bench):
    for key in ("custom_generate", "trust_remote_code", "assistant_model"):
        document = drawing(
            steps=[doing("text_generation", prompt="x", generate_kwargs={key: "owner/name"})]
        )
        assert f"{ARGUMENTS}.generate_kwargs.{key}" in bench.problems(document)


def test_default_models_are_repositories(bench: Bench):
    for command, task in TASKS.items():
        fields = task.arguments.model_fields
        values = {name: field.get_default() for name, field in fields.items()}
        for each in task.loads(values):
            required = fields[each.argument].is_required()
            assert required or each.model.count("/") == 1, command
            assert each.argument in fields, command


def test_third_party_image_processors_are_refused_as_expected(real_workflows: Path, bench: Bench):
    bench.picture("robot.png")
    workflow = real_workflows / "tasks" / "image_processors.json"
    with pytest.raises(InvalidWorkflow) as caught:
        make_plan(
            workflow,
            {},
            paths=bench.paths,
            changes={"/steps/0/task/arguments/urls/0": str(bench.media / "robot.png")},
        )
    places = {found.place: found.message for found in caught.value.problems}
    commands = [step["task"]["command"] for step in json.loads(workflow.read_text())["steps"]]
    at = {command: f"steps[{number}].task.command" for number, command in enumerate(commands)}
    assert places.pop(at["face_detector"]) == "There is no task 'face_detector'."
    assert places == {
        at[command]: f"'{command}' needs controlnet_aux and torchvision, which are not installed."
        for command in commands
        if command in DETECTORS
    }
