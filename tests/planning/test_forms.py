"""Forms derived from the uses of variables; `inputs` overrides any part."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.inputs import InputSpec
from app.dialect.loader import read_document
from app.errors import InvalidWorkflow
from app.planning.declarations import declared_inputs
from app.planning.forms import argument_help
from tests.plan_bench import Bench, Document, drawing, step, sub


def asked(bench: Bench, document: Document) -> dict[str, InputSpec]:
    """Returns the document's inputs, by name."""
    return {spec.name: spec for spec in declared_inputs(read_document(bench.write(document)))}


def calling(pipeline: str, variables: dict[str, Any], **arguments: Any) -> Document:
    """Returns a document that calls this pipeline; each variable is the argument of its own
    name."""
    named = {name: f"variable:{name}" for name in variables}
    block = step(configuration={"component_type": pipeline}, arguments={**named, **arguments})
    return drawing(variables=variables, steps=[block])


def test_field_help_is_docstring_of_argument(bench: Bench):
    document = calling("FluxPipeline", {"num_inference_steps": 28, "prompt": "a fox"})
    fields = asked(bench, document)
    assert fields["num_inference_steps"].help == (
        "The number of denoising steps. More denoising steps usually lead to a higher quality image"
        " at the expense of slower inference."
    )
    # Sentences that only help callers from Python are left out.
    assert fields["prompt"].help == "The prompt or prompts to guide the image generation."


def test_every_corpus_pipeline_has_argument_help():
    for pipeline in ("StableDiffusionXLPipeline", "WanPipeline", "LTX2Pipeline", "ZImagePipeline"):
        told = argument_help(pipeline)
        assert {"prompt", "width", "height", "num_inference_steps"} <= told.keys()
        assert all(0 < len(text) <= 320 and "](" not in text for text in told.values())


def test_sizes_have_limits_and_a_step(bench: Bench):
    sizes = {"width": 512, "height": 512, "num_frames": 81}
    fields = asked(bench, calling("WanPipeline", {**sizes, "prompt": "a fox"}))
    width, frames = fields["width"], fields["num_frames"]
    assert (width.kind, width.minimum, width.maximum, width.step) == ("integer", 8, 8192, 8)
    assert (frames.minimum, frames.step, frames.label) == (1, None, "Frames")


def test_fraction_with_both_limits_is_slider(bench: Bench):
    fields = asked(bench, calling("StableDiffusionImg2ImgPipeline", {"strength": 0.8}))
    strength = fields["strength"]
    assert (strength.kind, strength.minimum, strength.maximum) == ("slider", 0, 1)


def test_rare_arguments_are_under_advanced(bench: Bench):
    variables = {"prompt": "a fox", "negative_prompt": "", "guidance_scale": 7.5, "width": 512,
                 "repository": "a/b"}  # fmt: skip
    document = calling("StableDiffusionPipeline", variables)
    block = document["steps"][0]["pipeline"]
    del block["arguments"]["repository"]
    block["from_pretrained_arguments"]["model_name"] = "variable:repository"
    groups = {name: field.group for name, field in asked(bench, document).items()}
    assert groups == {"prompt": "", "negative_prompt": "", "guidance_scale": "advanced",
                      "width": "", "repository": "advanced"}  # fmt: skip


def test_form_always_has_a_main_field(bench: Bench):
    fields = asked(bench, calling("StableDiffusionPipeline", {"guidance_scale": 7.5}))
    assert fields["guidance_scale"].group == ""


@pytest.mark.parametrize(
    "value",
    [{"image": "variable:picture_url"}, {"image": {"location": "variable:picture_url"}}],
    ids=["key", "location"],
)
def test_variable_used_as_image_is_image_field(bench: Bench, value: dict[str, Any]):
    document = drawing(
        variables={"picture_url": None},
        steps=[{"name": "cut", "task": {"command": "crop_square", "arguments": value}}],
    )
    field = asked(bench, document)["picture_url"]
    assert (field.kind, field.label) == ("image", "Picture")


def test_enum_settings_are_choices(bench: Bench):
    document = calling("StableDiffusionPipeline", {})
    document["variables"] = {"offload": "model"}
    document["steps"][0]["pipeline"]["configuration"]["offload"] = "variable:offload"
    field = asked(bench, document)["offload"]
    assert (field.kind, field.choices) == ("choice", ("model", "sequential"))


def test_task_arguments_have_limits(bench: Bench):
    task = {"command": "resize_rescale", "arguments": {"image": None, "width": "variable:side"}}
    document = drawing(variables={"side": 64}, steps=[{"name": "a", "task": task}])
    field = asked(bench, document)["side"]
    assert (field.minimum, field.maximum, field.group) == (1, 8192, "")


def test_sub_workflow_inputs_describe_parent_variables(bench: Bench):
    child = calling("FluxPipeline", {"width": 512})
    bench.write({**child, "inputs": {"width": {"maximum": 1024}}}, "child.json")
    document = drawing(
        variables={"wide": 512, "which": "child.json"}, steps=[sub("child.json", wide="x")]
    )
    document["steps"][0]["workflow"] = {
        "path": "variable:which", "arguments": {"width": "variable:wide"},
    }  # fmt: skip
    field = asked(bench, document)["wide"]
    assert (field.label, field.step, field.maximum) == ("Wide", 8, 1024)
    assert field.help.startswith("The width in pixels")


def test_recursive_sub_workflow_terminates(bench: Bench):
    document = drawing(
        variables={"prompt": "a"}, steps=[sub("flow.json", prompt="variable:prompt")]
    )
    assert asked(bench, document)["prompt"].label == "Prompt"


def test_pipeline_reference_has_help_of_its_pipeline(bench: Bench):
    again = {"reference_name": "draw", "arguments": {"prompt": "variable:words"}}
    document = drawing(
        variables={"words": "a fox", "prompt": "", "steps": 1},
        steps=[step(), {"name": "again", "pipeline_reference": again}],
    )
    assert asked(bench, document)["words"].help.startswith("The prompt or prompts")


@pytest.mark.parametrize(
    ("block", "field", "value"),
    [
        ({"label": "How wide"}, "label", "How wide"),
        ({"help": "Wide."}, "help", "Wide."),
        ({"minimum": 64, "maximum": 128}, "kind", "slider"),
        ({"minimum": 64}, "minimum", 64),
        ({"step": 64}, "step", 64),
        ({"choices": [512, 768]}, "kind", "choice"),
        ({"group": "advanced"}, "group", "advanced"),
        ({"kind": "number"}, "kind", "number"),
    ],
)
def test_inputs_block_overrides_derived_fields(
    bench: Bench, block: dict[str, Any], field: str, value: object
):
    document = calling("FluxPipeline", {"width": 512})
    derived = asked(bench, document)["width"]
    assert getattr(derived, field) != value
    assert getattr(asked(bench, {**document, "inputs": {"width": block}})["width"], field) == value


@pytest.mark.parametrize(
    ("default", "block", "sentence"),
    [
        (4, {"kind": "slider"}, "A slider needs a minimum and a maximum."),
        (4, {"minimum": 9, "maximum": 1}, "The minimum 9 is not below the maximum 1."),
        (4, {"kind": "integer", "minimum": 1, "maximum": 1}, "is not below the maximum 1."),
        (4, {"minimum": 1, "maximum": 9, "step": 0}, "The step 0 is not above 0."),
        ("a", {"minimum": 1, "maximum": 9, "kind": "slider"}, "A slider cannot stand at 'a'."),
        ("a", {"kind": "number"}, "A field for a number cannot hold 'a'."),
        ("a", {"kind": "checkbox"}, "A checkbox is true or false, not 'a'."),
        ("a", {"kind": "choice"}, "A choice needs choices."),
        (
            None,
            {"mask_of": "imgae"},
            "no picture 'imgae' to paint a mask on. Did you mean 'image'?",
        ),
    ],
)
def test_impossible_input_is_refused(
    bench: Bench, default: Any, block: dict[str, Any], sentence: str
):
    name = "a_mask" if default is None else "x"
    variables = {"image": None, name: default, "prompt": "", "steps": 1}
    with pytest.raises(InvalidWorkflow) as caught:
        asked(bench, drawing(variables=variables, inputs={name: block}))
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"inputs.{name}: ")
    assert str(problem).endswith(sentence)


def test_default_beyond_limits_removes_limits(bench: Bench):
    fields = asked(bench, calling("FluxPipeline", {"num_inference_steps": 0}))
    assert (fields["num_inference_steps"].minimum, fields["num_inference_steps"].default) == (
        None,
        0,
    )


def test_unused_variable_is_labelled_by_name(bench: Bench):
    fields = asked(bench, drawing(variables={"lora_scale": 1.0, "prompt": "", "steps": 1}))
    assert (fields["lora_scale"].label, fields["lora_scale"].help) == ("LoRA scale", "")
