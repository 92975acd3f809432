"""Components shared between steps: resolved and checked in the plan."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plan_bench import Bench, drawing, step, sub

PARTS = ("vae", "unet", "text_encoder", "scheduler")


@pytest.fixture(autouse=True)
def model_with_parts(bench: Bench) -> None:
    parts = {name: ["diffusers", "Any"] for name in PARTS}
    bench.consists_of({"safety_checker": [None, None], **parts})


def referring(name: str = "again", reference: str = "draw", **changes: Any) -> dict[str, Any]:
    block = {"reference_name": reference, "arguments": {"prompt": "a blue circle"}}
    return {"name": name, "pipeline_reference": block, **changes}


def in_configuration(**lists: list[str]) -> dict[str, Any]:
    return {"configuration": {"component_type": "StableDiffusionPipeline", **lists}}


def test_reused_component_comes_from_sharing_step(bench: Bench):
    first = step("first", shared_components=["vae"], **in_configuration(shared_components=["unet"]))
    second = step("second", reused_components=["vae", "unet"])
    assert bench.plan(drawing(steps=[first, second])).steps[1].reused == {
        "vae": "first",
        "unet": "first",
    }


def test_last_sharing_step_wins(bench: Bench):
    steps = [step(name, shared_components=["vae"]) for name in ("first", "second")]
    plan = bench.plan(drawing(steps=[*steps, step("third", reused_components=["vae"])]))
    assert plan.steps[2].reused == {"vae": "second"}


def test_unshared_component_cannot_be_reused(bench: Bench):
    first = step("first", shared_components=["text_encoder"])
    second = step("second", reused_components=["text_encoders", "vae"])
    third = step("third", shared_components=["vae"])
    where = "steps[1].pipeline.reused_components"
    assert bench.problems(drawing(steps=[first, second, third])) == {
        f"{where}[0]": "No earlier step shares 'text_encoders'. Did you mean 'text_encoder'?",
        f"{where}[1]": "No earlier step shares 'vae'. "
        "Step 'third' shares it and has to come first.",
    }


@pytest.mark.parametrize("name", ["vea", "safety_checker"])
def test_missing_component_cannot_be_shared(bench: Bench, name: str):
    document = drawing(steps=[step(**in_configuration(shared_components=[name]))])
    ((place, message),) = bench.problems(document).items()
    assert place == "steps[0].pipeline.configuration.shared_components[0]"
    assert message.startswith(f"The pipeline of 'draw' has no component '{name}'.")


def test_reused_scheduler_cannot_be_changed(bench: Bench):
    second = step("second", reused_components=["scheduler"], scheduler={"shift": 3})
    document = drawing(steps=[step(shared_components=["scheduler"]), second])
    assert bench.problems(document) == {
        "steps[1].pipeline.scheduler": "A scheduler that is reused cannot be changed. "
        "Leave it out of 'reused_components'."
    }


def test_sub_workflow_shares_nothing_with_parent(bench: Bench):
    bench.write(drawing(steps=[step(reused_components=["vae"])]), "child.json")
    document = drawing(steps=[step(shared_components=["vae"]), sub("child.json")])
    assert list(bench.problems(document).values()) == ["No earlier step shares 'vae'."]


def test_pipeline_reference_is_earlier_step_with_other_arguments(bench: Bench):
    first = step(loras=[{"model_name": "../models/tiny", "scale": 0.5}]) | {"seed": 3}
    result = {"content_type": "image/jpeg"}
    drawn, again = bench.plan(drawing(steps=[first, referring(result=result)])).steps
    changed = {"name", "place", "file_stem", "arguments", "result"}
    assert again.model_dump(exclude=changed) == drawn.model_dump(exclude=changed)
    assert again.arguments["prompt"].value == "a blue circle"
    assert (again.name, again.place, again.seed) == ("again", "steps[1]", 3)
    assert again.result.content_type == "image/jpeg"


def test_pipeline_reference_may_have_a_seed(bench: Bench):
    assert bench.plan(drawing(steps=[step(), referring(seed=5)]), seed=1).steps[1].seed == 5


@pytest.mark.parametrize(
    ("reference", "hint"),
    [("drow", "Did you mean 'draw'?"), ("later", "Step 'later' comes later.")],
)
def test_reference_to_unknown_pipeline_is_refused(bench: Bench, reference: str, hint: str):
    document = drawing(steps=[step(), referring(reference=reference), step("later")])
    assert bench.problems(document) == {
        "steps[1].pipeline_reference.reference_name": "There is no earlier pipeline step "
        f"'{reference}'. {hint}"
    }


def test_arguments_of_reference_are_checked(bench: Bench):
    wrong = referring()
    wrong["pipeline_reference"]["arguments"]["promt"] = "x"
    assert bench.problems(drawing(steps=[step(), wrong])) == {
        "steps[1].pipeline_reference.arguments.promt": "StableDiffusionPipeline takes no 'promt'. "
        "Did you mean 'prompt'?"
    }
