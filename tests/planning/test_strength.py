"""Checks of a strength while planning: a low one of few steps leaves no step to draw."""

from __future__ import annotations

import ast
import json
import types
from typing import Any

import pytest
import torch
from PIL import Image

from app.dialect.installed.signatures import call_signature, class_source, public_classes
from tests.plan_bench import Bench
from tests.planning.test_calls import ARGUMENTS, calling
from tests.standins.families import build_narrow


def redrawing(
    bench: Bench, pipeline: str, scheduler: str = "DDIMScheduler", **arguments: Any
) -> dict[str, Any]:
    """Returns a document that redraws a picture, with a model that has this scheduler."""
    Image.new("RGB", (64, 64)).save(bench.workflows / "a.png")
    config = bench.model / "scheduler" / "scheduler_config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"_class_name": scheduler}))
    return calling(pipeline, prompt="a", image="a.png", **arguments)


@pytest.mark.parametrize(
    ("pipeline", "arguments", "sentence"),
    [
        ("StableDiffusionImg2ImgPipeline", {"strength": 0.1, "num_inference_steps": 5},
         "0.1 of 5 steps leaves no step to draw. The least strength for 5 steps is 0.2;"
         " 0.1 needs 10 steps."),
        ("StableDiffusionImg2ImgPipeline", {"strength": 0.3, "num_inference_steps": 3},
         "0.3 of 3 steps leaves no step to draw. The least strength for 3 steps is 0.334;"
         " 0.3 needs 4 steps."),
        ("StableDiffusionXLImg2ImgPipeline", {"strength": 0.01},
         "0.01 of 50 steps leaves no step to draw. The least strength for 50 steps is 0.02;"
         " 0.01 needs 100 steps."),
        ("AutoPipelineForImage2Image", {"strength": 0.1, "num_inference_steps": 5},
         "0.1 of 5 steps leaves no step to draw. The least strength for 5 steps is 0.2;"
         " 0.1 needs 10 steps."),
        ("StableDiffusionImg2ImgPipeline", {"strength": 0, "num_inference_steps": 5},
         "0 of 5 steps leaves no step to draw. The least strength for 5 steps is 0.2."),
        ("FluxImg2ImgPipeline", {"strength": 0.0, "num_inference_steps": 5},
         "0 of 5 steps leaves no step to draw. The least strength for 5 steps is 0.2."),
        # It hands the strength to another pipeline.
        ("KandinskyV22Img2ImgCombinedPipeline", {"strength": 0.1, "num_inference_steps": 5},
         "0.1 of 5 steps leaves no step to draw. The least strength for 5 steps is 0.2;"
         " 0.1 needs 10 steps."),
        ("StableDiffusionXLModularPipeline", {"strength": 0.1, "num_inference_steps": 5},
         "0.1 of 5 steps leaves no step to draw. The least strength for 5 steps is 0.2;"
         " 0.1 needs 10 steps."),
        ("QwenImageModularPipeline", {"strength": 0.0, "num_inference_steps": 5},
         "0 of 5 steps leaves no step to draw. The least strength for 5 steps is 0.2."),
    ],
)  # fmt: skip
def test_strength_that_leaves_no_step_is_refused(
    bench: Bench, pipeline: str, arguments: dict[str, Any], sentence: str
):
    asked = redrawing(bench, pipeline, **arguments)
    assert bench.problems(asked) == {f"{ARGUMENTS}.strength": sentence}


@pytest.mark.parametrize(
    ("pipeline", "scheduler", "arguments"),
    [
        ("StableDiffusionImg2ImgPipeline", "DDIMScheduler",
         {"strength": 0.2, "num_inference_steps": 5}),
        ("StableDiffusionImg2ImgPipeline", "DDIMScheduler",
         {"strength": 0.334, "num_inference_steps": 3}),
        ("StableDiffusionImg2ImgPipeline", "DDIMScheduler", {"num_inference_steps": 2}),
        # It has one timestep more than steps.
        ("StableDiffusionImg2ImgPipeline", "PNDMScheduler",
         {"strength": 0.1, "num_inference_steps": 5}),
        # A refiner goes on where the base has ended; its strength counts for nothing.
        ("StableDiffusionXLImg2ImgPipeline", "EulerDiscreteScheduler",
         {"strength": 0.1, "num_inference_steps": 5, "denoising_start": 0.8}),
        # It rounds in favour of a step.
        ("FluxImg2ImgPipeline", "FlowMatchEulerDiscreteScheduler",
         {"strength": 0.1, "num_inference_steps": 5}),
        ("QwenImageModularPipeline", "FlowMatchEulerDiscreteScheduler",
         {"strength": 0.1, "num_inference_steps": 5}),
        # Its strength is that of a condition.
        ("LTXConditionPipeline", "FlowMatchEulerDiscreteScheduler",
         {"strength": 0.01, "num_inference_steps": 5}),
    ],
)  # fmt: skip
def test_strength_that_leaves_a_step_is_accepted(
    bench: Bench, pipeline: str, scheduler: str, arguments: dict[str, Any]
):
    assert bench.plan(redrawing(bench, pipeline, scheduler, **arguments)).steps


@pytest.mark.parametrize(
    "scheduler",
    ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
     "EulerDiscreteScheduler"],
)  # fmt: skip
def test_scheduler_of_second_order_leaves_no_more_steps(bench: Bench, scheduler: str):
    """It has two timesteps a step, and twice as many are left out."""
    little = {"strength": 0.1, "num_inference_steps": 5}
    asked = redrawing(bench, "StableDiffusionImg2ImgPipeline", scheduler, **little)
    assert [*bench.problems(asked)] == [f"{ARGUMENTS}.strength"]


def test_own_argument_for_the_share_of_steps_is_checked(bench: Bench):
    asked = redrawing(
        bench, "LTXConditionPipeline", denoise_strength=0.1, num_inference_steps=5, strength=1.0
    )
    assert [*bench.problems(asked)] == [f"{ARGUMENTS}.denoise_strength"]


def test_modular_pipeline_that_draws_anew_needs_no_strength(bench: Bench):
    asked = redrawing(
        bench, "StableDiffusionXLModularPipeline", strength=0.1, num_inference_steps=5
    )
    del asked["steps"][0]["pipeline"]["arguments"]["image"]
    assert bench.plan(asked).steps


@pytest.mark.parametrize(("family", "accepted"), [("sd15", True), ("sdxl", False)])
def test_scheduler_of_a_checkpoints_family_counts(bench: Bench, family: str, accepted: bool):
    build_narrow(family, bench.workflows / "dream.safetensors")
    asked = redrawing(bench, "AutoPipelineForImage2Image", strength=0.1, num_inference_steps=5)
    asked["steps"][0]["pipeline"]["from_pretrained_arguments"] = {
        "from_single_file": "./dream.safetensors"
    }
    if accepted:
        assert bench.plan(asked).steps
    else:
        assert [*bench.problems(asked)] == [f"{ARGUMENTS}.strength"]


PIPELINES = sorted(name for name, found in public_classes("diffusers").items()
                   if found.kind == "pipeline" and not name.startswith(("Onnx", "Flax"))
                   and (read := call_signature(name)) is not None and read.strength)  # fmt: skip


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_rounding_of_each_pipeline_is_that_of_its_own_code(pipeline: str):
    signature = call_signature(pipeline)
    source = class_source(pipeline)
    own = [node for node in source.body
           if isinstance(node, ast.FunctionDef) and node.name == "get_timesteps"]  # fmt: skip
    if not own:
        assert "Combined" in pipeline or "Amused" in pipeline
        assert signature.rounds_strength_down
        return
    assert signature.rounds_strength_down == (steps_left(own[0], strength=0.1) == 0)
    assert steps_left(own[0], strength=0.0) == 0
    assert steps_left(own[0], strength=0.2) == 1


class Scheduler:
    """Five timesteps."""

    order = 1
    timesteps = torch.arange(5, 0, -1)

    def set_begin_index(self, index: int) -> None:
        """Does nothing."""


def steps_left(function: ast.FunctionDef, strength: float) -> int:
    """Returns how many of five timesteps this `get_timesteps` leaves."""
    defined: dict[str, Any] = {"torch": torch}
    function.returns = None
    for argument in (*function.args.args, *function.args.kwonlyargs):
        argument.annotation = None
    exec(ast.unparse(function), defined)
    pipeline = types.SimpleNamespace(scheduler=Scheduler(), _order=1)
    known = {"num_inference_steps": 5, "strength": strength, "device": "cpu",
             "timesteps": Scheduler.timesteps, "sigmas": Scheduler.timesteps}  # fmt: skip
    names = {argument.arg for argument in function.args.args}
    left = defined["get_timesteps"](pipeline, **{key: known[key] for key in known.keys() & names})
    return next(len(each) for each in left if isinstance(each, torch.Tensor))


def test_documents_scheduler_counts_for_the_strength(bench: Bench):
    little = {"strength": 0.1, "num_inference_steps": 5}
    asked = redrawing(bench, "StableDiffusionImg2ImgPipeline", "PNDMScheduler", **little)
    changed = {"configuration": {"scheduler_type": "EulerDiscreteScheduler"}}
    asked["steps"][0]["pipeline"]["scheduler"] = changed
    assert [*bench.problems(asked)] == [f"{ARGUMENTS}.strength"]


def test_typed_strength_that_leaves_no_step_is_reported_at_its_input(bench: Bench):
    asked = redrawing(
        bench, "StableDiffusionImg2ImgPipeline", strength="variable:strength",
        num_inference_steps=5,
    )  # fmt: skip
    asked["variables"] = {"strength": 0.5}
    assert [*bench.problems(asked, strength=0.1)] == ["inputs.strength"]
