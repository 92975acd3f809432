"""Components that a pipeline cannot do without are missed while planning, where that is sure."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plan_bench import Bench, Document, drawing, step

PIPELINE = "steps[0].pipeline"
PARTS = {
    name: ["diffusers", "Any"]
    for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "feature_extractor")
}
XL = {
    name: ["diffusers", "Any"]
    for name in (
        "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler",
    )
}  # fmt: skip


def drawn(kind: str, model: str | None = None, **block: Any) -> Document:
    made = step(configuration={"component_type": kind}, **block)
    if model is not None:
        made["pipeline"]["from_pretrained_arguments"]["model_name"] = model
    return drawing(steps=[made])


def component(kind: str) -> Document:
    return {
        "configuration": {"component_type": kind},
        "from_pretrained_arguments": {"model_name": "../models/tiny"},
    }


@pytest.mark.parametrize(
    ("family", "kind", "missing"),
    [
        ("StableDiffusion", "StableDiffusionControlNetPipeline", "controlnet"),
        ("StableDiffusionXL", "StableDiffusionXLControlNetImg2ImgPipeline", "controlnet"),
        ("StableDiffusion", "StableDiffusionAdapterPipeline", "adapter"),
    ],
)
def test_missing_component_is_told_with_how_to_give_it(
    bench: Bench, family: str, kind: str, missing: str
):
    parts = XL if family.endswith("XL") else PARTS
    bench.consists_of(parts | {"_class_name": f"{family}Pipeline"})
    image = {"image": "a.png"} | ({"control_image": "a.png"} if "Img2Img" in kind else {})
    bench.picture("a.png", bench.workflows)
    arguments = {"prompt": "a fox", **image}
    assert bench.problems(drawn(kind, arguments=arguments)) == {
        PIPELINE: f"'../models/tiny' has no {missing}, which {kind} needs. It is a model for"
        f" {family}Pipeline: give {PIPELINE} a block '{missing}'."
    }
    given = {missing: component("ControlNetModel" if missing == "controlnet" else "T2IAdapter")}
    bench.plan(drawn(kind, arguments=arguments, **given))
    bench.plan(drawn(kind, arguments=in_a_list(arguments), **{missing: [given[missing]]}))


def in_a_list(arguments: Document) -> Document:
    """Returns the arguments for a list of one component."""
    name = "control_image" if "control_image" in arguments else "image"
    return {**arguments, name: [arguments[name]]}


def test_empty_list_of_components_is_none(bench: Bench):
    bench.consists_of(PARTS)
    bench.picture("a.png", bench.workflows)
    arguments = {"prompt": "a fox", "image": []}
    document = drawn("StableDiffusionControlNetPipeline", controlnet=[], arguments=arguments)
    assert "has no controlnet, which" in bench.problems(document)[PIPELINE]


@pytest.mark.parametrize("kind", ["Img2Img", "Inpaint", "", "Upscale"])
def test_other_pipelines_of_the_same_components_miss_none(bench: Bench, kind: str):
    bench.consists_of(
        PARTS | {"low_res_scheduler": ["diffusers", "Any"]} if kind == "Upscale" else PARTS
    )
    bench.picture("a.png", bench.workflows)
    images = {"": {}, "Inpaint": {"image": "a.png", "mask_image": "a.png"}}
    arguments = {"prompt": "a fox", **images.get(kind, {"image": "a.png"})}
    bench.plan(drawn(f"StableDiffusion{kind}Pipeline", arguments=arguments))


@pytest.mark.parametrize("null", ["index", "document"])
@pytest.mark.parametrize("name", ["unet", "scheduler"])
def test_null_in_place_of_an_indispensable_component_is_refused(bench: Bench, name: str, null: str):
    bench.consists_of(PARTS | ({name: [None, None]} if null == "index" else {}))
    loading = {"model_name": "../models/tiny"} | ({name: None} if null == "document" else {})
    document = drawing(steps=[step(from_pretrained_arguments=loading)])
    message = bench.problems(document)[PIPELINE]
    assert message.startswith(
        f"'../models/tiny' has no {name}, which StableDiffusionPipeline needs."
        if null == "index"
        else f"The {name} is set to null, and StableDiffusionPipeline needs one."
    )


def test_optional_components_may_be_null(bench: Bench):
    optional = ("feature_extractor", "safety_checker", "image_encoder")
    bench.consists_of(PARTS | {name: [None, None] for name in optional})
    bench.plan(drawing())


@pytest.mark.parametrize(
    ("name", "needed"),
    [("vae", {"output_type": "{latent}"}), ("text_encoder", "prompt_embeds"),
     ("tokenizer", "prompt_embeds")],
)  # fmt: skip
def test_component_that_only_some_calls_need_may_be_null_for_others(
    bench: Bench, name: str, needed: str | Document
):
    bench.consists_of(PARTS)
    loading = {"model_name": "../models/tiny", name: None}
    plain = step(from_pretrained_arguments=loading)
    assert bench.problems(drawing(steps=[plain])) == {
        f"{PIPELINE}.from_pretrained_arguments.{name}": (
            f"The {name} is set to null, and this call needs one. Leave it out, give a block of"
            " it, or "
            + (
                "set 'output_type' to \"{latent}\"."
                if name == "vae"
                else "give 'prompt_embeds' instead of a prompt."
            )
        )
    }
    without = step("again", from_pretrained_arguments=loading)
    if isinstance(needed, dict):
        without["pipeline"]["arguments"] |= needed
    else:
        without["pipeline"]["arguments"] = {"prompt_embeds": "previous_result:draw.images"}
    bench.plan(drawing(steps=[step(), without]))


def test_model_of_another_family_is_refused(bench: Bench):
    bench.consists_of(PARTS)
    assert bench.problems(drawn("FluxPipeline")) == {
        PIPELINE: "'../models/tiny' has no text_encoder_2, tokenizer_2, transformer, which"
        " FluxPipeline needs. It is a model for StableDiffusionPipeline."
    }


def test_model_that_is_not_here_is_not_judged(bench: Bench):
    bench.picture("a.png", bench.workflows)
    arguments = {"prompt": "a fox", "image": "a.png"}
    bench.plan(drawn("StableDiffusionControlNetPipeline", "some/model", arguments=arguments))


def test_pipeline_without_a_model_needs_all_its_components(bench: Bench):
    blocks = {"unet": component("UNet2DConditionModel"), "from_pretrained_arguments": {}}
    assert bench.problems(drawn("StableDiffusionPipeline", **blocks)) == {
        PIPELINE: "StableDiffusionPipeline needs vae, text_encoder, tokenizer, scheduler, and"
        f" {PIPELINE} names no model that they could be taken from. Give {PIPELINE} a block for"
        " each, or reuse an earlier step's."
    }


def test_component_that_the_pipeline_does_not_take_is_warned_of(bench: Bench):
    bench.consists_of(PARTS)
    plan = bench.plan(drawn("StableDiffusionPipeline", controlnet=component("ControlNetModel")))
    assert plan.warnings == (
        f"{PIPELINE}.controlnet has no effect: StableDiffusionPipeline takes no 'controlnet'.",
    )
