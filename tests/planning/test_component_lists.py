"""A component that is a list: several ControlNets, each with a specification of its own."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.plan import PipelineStep
from tests.plan_bench import Bench, Document, drawing, step

PLACE = "steps[0].pipeline"


def net(bench: Bench, name: str, **changes: Any) -> Document:
    """Returns the block of a ControlNet in a folder of this name."""
    folder = bench.model.parent / name
    folder.mkdir(exist_ok=True)
    return {
        "configuration": {"component_type": "ControlNetModel"},
        "from_pretrained_arguments": {"model_name": f"../models/{name}", **changes},
    }


def controlled(
    bench: Bench, nets: Any, kind: str = "StableDiffusionControlNetPipeline", **arguments: Any
) -> Document:
    bench.picture("hint.png", bench.workflows)
    return drawing(
        steps=[
            step(
                configuration={"component_type": kind},
                controlnet=nets,
                arguments={"prompt": "variable:prompt", **arguments},
            )
        ]
    )


def planned(bench: Bench, document: Document) -> PipelineStep:
    (found,) = bench.plan(document).steps
    assert isinstance(found, PipelineStep)
    return found


def test_each_entry_of_a_list_is_a_component_of_its_own(bench: Bench):
    nets = [net(bench, "canny"), net(bench, "depth", torch_dtype="torch.bfloat16")]
    found = planned(bench, controlled(bench, nets, image=["hint.png", "hint.png"]))
    assert {name: (each.source.model, each.dtype) for name, each in found.components.items()} == {
        "controlnet.0": ("../models/canny", "float32"),
        "controlnet.1": ("../models/depth", "bfloat16"),
    }


def test_mistake_in_an_entry_has_its_place(bench: Bench):
    nets = [net(bench, "canny"), {**net(bench, "depth"), "quantisation": {}}, {"x": 1}]
    nets[0]["from_pretrained_arguments"]["model_name"] = "../models/cany"
    problems = bench.problems(controlled(bench, nets))
    assert set(problems) == {
        f"{PLACE}.controlnet[2].configuration",
        f"{PLACE}.controlnet[2].from_pretrained_arguments",
    }
    del nets[2]
    message = problems_at(bench, nets, "[0].from_pretrained_arguments.model_name")
    assert message == "There is no model folder '../models/cany'. Did you mean 'canny'?"


def problems_at(bench: Bench, nets: Any, place: str, **arguments: Any) -> str:
    arguments = arguments or {"image": ["hint.png"] * len(nets)}
    return bench.problems(controlled(bench, nets, **arguments))[f"{PLACE}.controlnet{place}"]


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("StableDiffusionControlNetPipeline", "image"),
        ("StableDiffusionControlNetImg2ImgPipeline", "control_image"),
        ("FluxControlNetPipeline", "control_image"),
    ],
)
def test_lists_of_arguments_are_as_long_as_the_list_of_components(
    bench: Bench, kind: str, image: str
):
    nets = [net(bench, "canny"), net(bench, "depth")]
    others = {"image": "hint.png"} if "Img2Img" in kind else {}
    wrong = {image: ["hint.png"] * 3, "controlnet_conditioning_scale": [0.5]}
    at = f"{PLACE}.arguments"
    assert bench.problems(controlled(bench, nets, kind, **others, **wrong)) == {
        f"{at}.{image}": "3 images for 2 ControlNets. One for each is needed, in their order.",
        f"{at}.controlnet_conditioning_scale": "1 value for 2 ControlNets. One for each is"
        " needed, in their order, or a single number for all.",
    }
    right = {image: ["hint.png"] * 2, "controlnet_conditioning_scale": [0.5, 1]}
    planned(bench, controlled(bench, nets, kind, **others, **right))
    planned(
        bench,
        controlled(bench, nets, kind, **others, **right | {"controlnet_conditioning_scale": 0.5}),
    )


def test_single_image_for_several_components_is_refused(bench: Bench):
    nets = [net(bench, "canny"), net(bench, "depth")]
    assert bench.problems(controlled(bench, nets, image="hint.png")) == {
        f"{PLACE}.arguments.image": "A list of 2 images is needed, one for each of the ControlNets,"
        " in their order."
    }


def test_images_of_several_prompts_are_counted_within_each_prompt(bench: Bench):
    nets = [net(bench, "canny"), net(bench, "depth")]
    pair = ["hint.png", "hint.png"]
    planned(bench, controlled(bench, nets, image=[pair, pair, pair]))
    (message,) = bench.problems(controlled(bench, nets, image=[pair, ["hint.png"]])).values()
    assert message == "1 image for 2 ControlNets. One for each is needed, in their order."


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("controlnet", "SanaControlNetPipeline"),
        ("controlnet", "QwenImageControlNetPipeline"),
        ("vae", "StableDiffusionPipeline"),
    ],
)
def test_list_is_refused_where_the_pipeline_takes_one_component(bench: Bench, name: str, kind: str):
    block = {"configuration": {"component_type": kind}, name: [net(bench, "canny")]}
    message = bench.problems(drawing(steps=[step(**block)]))[f"{PLACE}.{name}"]
    assert message == f"{kind} takes one {name}, not a list. Give the block alone."


def test_shared_list_is_shared_whole(bench: Bench):
    nets = [net(bench, "canny"), net(bench, "depth")]
    first = controlled(bench, nets, image=["hint.png"] * 2)["steps"][0]
    first["pipeline"]["shared_components"] = ["controlnet"]
    second = {**step("second", reused_components=["controlnet"])}
    second["pipeline"]["configuration"] = first["pipeline"]["configuration"]
    second["pipeline"]["arguments"]["image"] = ["hint.png"] * 2
    plan = bench.plan(drawing(steps=[first, second]))
    assert plan.steps[1].reused == {"controlnet": "draw"}
    second["pipeline"]["arguments"]["image"] = ["hint.png"]
    (place,) = bench.problems(drawing(steps=[first, second]))
    assert place == "steps[1].pipeline.arguments.image"


def test_settings_of_a_listed_component_hold_for_all_its_entries(bench: Bench):
    nets = [net(bench, "canny"), net(bench, "depth")]
    document = controlled(bench, nets, image=["hint.png"] * 2)
    document["steps"][0]["pipeline"]["configuration"]["controlnet"] = {
        "torch_dtype": "torch.bfloat16"
    }
    found = planned(bench, document)
    assert {each.dtype for each in found.components.values()} == {"bfloat16"}
