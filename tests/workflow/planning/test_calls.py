"""A pipeline's call is checked while planning: names, types, ranges, sizes, pictures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from app.workflow.installed.sizes import size_rules
from app.workflow.planning.calls import json_kinds
from tests.workflow.bench import MODEL, Bench, drawing, step

ARGUMENTS = "steps[0].pipeline.arguments"


def calling(pipeline: str, **arguments: Any) -> dict[str, Any]:
    """A document that calls this pipeline."""
    return drawing(steps=[step(configuration={"component_type": pipeline}, arguments=arguments)])


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "side_px", "frames"),
    [
        ("StableDiffusionPipeline", 8, None),
        ("StableDiffusionXLPipeline", 8, None),
        ("StableDiffusion3Pipeline", 16, None),
        ("FluxPipeline", 16, None),
        ("Flux2Pipeline", 16, None),
        ("ZImagePipeline", 16, None),
        ("QwenImagePipeline", 16, None),
        ("Krea2Pipeline", 16, None),
        ("SanaPipeline", 32, None),
        ("LTX2Pipeline", 32, None),
        ("CogVideoXPipeline", 8, None),
        ("WanPipeline", 16, 4),
        ("KandinskyV22Pipeline", None, None),
    ],
)
def test_the_sizes_a_pipeline_draws_are_read_from_its_own_checks(
    pipeline: str, side_px: int | None, frames: int | None
):
    rules = size_rules(pipeline, None)
    sides = {rules[side].divisor if side in rules else None for side in ("width", "height")}
    assert sides == {side_px}
    assert ("num_frames" in rules) == (frames is not None)
    if frames:
        assert (rules["num_frames"].divisor, rules["num_frames"].remainder) == (frames, 1)


def test_a_models_own_configuration_decides_where_it_is_here(bench: Bench):
    for levels, divisor in ((4, 16), (2, 4)):
        (bench.model / "vae").mkdir(exist_ok=True)
        config = {"block_out_channels": [8] * levels}
        (bench.model / "vae" / "config.json").write_text(json.dumps(config))
        assert size_rules("StableDiffusion3Pipeline", bench.model)["width"].divisor == divisor


def test_a_size_the_pipeline_would_raise_for_is_refused_with_the_nearest(bench: Bench):
    assert bench.problems(calling("StableDiffusion3Pipeline", width=1000, height=1)) == {
        f"{ARGUMENTS}.width": "1000 is not a multiple of 16, which StableDiffusion3Pipeline needs."
        " The nearest is 1008.",
        f"{ARGUMENTS}.height": "1 is not a multiple of 16, which StableDiffusion3Pipeline needs."
        " The nearest is 16.",
    }


def test_a_size_the_pipeline_would_change_is_a_warning(bench: Bench):
    plan = bench.plan(calling("WanPipeline", prompt="a fox", width=64, num_frames=80))
    assert plan.warnings == (
        f"{ARGUMENTS}.num_frames: 80 is not a multiple of 4 plus 1, so WanPipeline draws another"
        " size. The nearest is 81.",
    )
    assert bench.plan(calling("WanPipeline", prompt="a fox", num_frames=81)).warnings == ()


def test_a_size_too_small_to_be_changed_is_refused(bench: Bench):
    assert list(bench.problems(calling("FluxPipeline", width=1))) == [f"{ARGUMENTS}.width"]


def test_a_size_that_somebody_typed_is_told_at_its_input(bench: Bench):
    document = drawing(variables={"width": 64}, steps=[step(arguments={"width": "variable:width"})])
    assert list(bench.problems(document, width=63)) == ["inputs.width"]


@pytest.mark.parametrize(("side", "fits"), [(1, False), (7, False), (8, True)])
def test_a_picture_too_small_to_draw_from_is_refused(bench: Bench, side: int, fits: bool):
    Image.new("RGB", (side, 64)).save(bench.workflows / "small.png")
    document = calling("StableDiffusionImg2ImgPipeline", prompt="a fox", image="small.png")
    if fits:
        assert bench.plan(document).steps
    else:
        assert bench.problems(document) == {
            f"{ARGUMENTS}.image": f"The picture has {side}x64 pixels;"
            " StableDiffusionImg2ImgPipeline needs at least 8 on each side."
        }


# --- types and ranges ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        ("int", {"int"}),
        ("Optional[float]", {"float", "None"}),
        ("str | list[str] | None", {"str", "list", "None"}),
        ("Union[str, List[str]]", {"str", "list"}),
        ("dict[str, Any] | None", {"dict", "None"}),
        ("torch.Tensor | None", {"None"}),
        ("torch.Generator | list[torch.Generator] | None", {"list", "None"}),
        ("PipelineImageInput", None),
        ("int | PipelineImageInput", None),
        ("", None),
    ],
)
def test_what_json_can_be_for_an_annotation(annotation: str, kinds: set[str] | None):
    assert json_kinds(annotation) == kinds


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompt": 7}, "A text or list is needed, not 7."),
        ({"prompt": True}, "A text or list is needed, not true."),
        ({"guidance_scale": "high"}, "A number is needed, not 'high'."),
        ({"num_inference_steps": 2.5}, "A whole number is needed, not 2.5."),
        ({"num_inference_steps": 1001}, "1001 is outside 1 to 1000."),
        ({"num_images_per_prompt": 0}, "0 is outside 1 to 100."),
        ({"latents": "noise"}, "This cannot be 'noise': only an earlier step can make it."),
        ({"cross_attention_kwargs": []}, "A object is needed, not []."),
    ],
)
def test_an_argument_of_a_wrong_type_or_out_of_range_is_refused(
    bench: Bench, arguments: dict[str, Any], sentence: str
):
    (name,) = arguments
    document = calling("StableDiffusionPipeline", **arguments)
    assert bench.problems(document) == {f"{ARGUMENTS}.{name}": sentence}


def test_null_stands_where_the_default_is_none(bench: Bench):
    assert bench.plan(calling("StableDiffusionPipeline", height=None, prompt="a fox")).steps


def test_a_strength_outside_zero_to_one_is_refused(bench: Bench):
    bench.picture("a.png", bench.workflows)
    document = calling("StableDiffusionImg2ImgPipeline", prompt="a", image="a.png", strength=1.5)
    assert bench.problems(document) == {f"{ARGUMENTS}.strength": "1.5 is outside 0 to 1."}


# --- results and packages ------------------------------------------------------------------------


def test_a_misspelt_property_of_a_pipelines_result_is_refused(bench: Bench):
    wrong = step("again", arguments={"ip_adapter_image": "previous_result:draw.image"})
    assert bench.problems(drawing(steps=[step(), wrong])) == {
        "steps[1].pipeline.arguments.ip_adapter_image": "Step 'draw' makes no 'image'."
        " Did you mean 'images'?"
    }


def test_a_step_name_may_have_dots_and_the_longest_one_is_meant(bench: Bench):
    steps = [step("a"), step("a.b"), step("c", arguments={"prompt": "previous_result:a.b.images"})]
    (value,) = bench.plan(drawing(steps=steps)).steps[2].arguments.values()
    assert (value.step, value.property) == ("a.b", "images")


def test_a_class_whose_package_is_missing_is_refused_with_the_command_that_adds_it(bench: Bench):
    document = calling("SpectrogramDiffusionPipeline")
    place = "steps[0].pipeline.configuration.component_type"
    assert bench.problems(document)[place] == (
        "'SpectrogramDiffusionPipeline' needs note-seq, which is not installed."
        " Add it with: pip install note-seq"
    )


def test_the_same_model_draws_what_fits(bench: Bench):
    assert MODEL
    assert bench.plan(calling("FluxPipeline", prompt="a fox", width=512, height=768)).warnings == ()
