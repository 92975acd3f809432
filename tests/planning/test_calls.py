"""Checks of a pipeline's call while planning: names, types, ranges, sizes, images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.installed.signatures import Sides, call_signature
from app.planning.calls import json_kinds, side_multiple
from tests.plan_bench import MODEL, Bench, drawing, step

ARGUMENTS = "steps[0].pipeline.arguments"


def calling(pipeline: str, **arguments: Any) -> dict[str, Any]:
    """Returns a document that calls this pipeline."""
    return drawing(steps=[step(configuration={"component_type": pipeline}, arguments=arguments)])


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vae", "transformer", "multiple"),
    [
        ({"block_out_channels": [8] * 4, "latent_channels": 4}, {}, 8),
        ({"block_out_channels": [8] * 2}, {"patch_size": 2}, 4),
        ({"block_out_channels": [8] * 4, "latent_channels": 16}, {"in_channels": 64}, 16),
        (
            {"block_out_channels": [8] * 4, "latent_channels": 16},
            {"in_channels": 384, "out_channels": 64, "patch_size": 1},
            16,
        ),
        (
            {"block_out_channels": [8] * 4, "latent_channels": 32, "patch_size": [2, 2]},
            {"in_channels": 128},
            16,
        ),
        (
            {"dim_mult": [1, 2, 4, 4], "z_dim": 16},
            {"in_channels": 64, "out_channels": 16, "patch_size": 2},
            16,
        ),
        ({"dim_mult": [1, 2, 4, 4], "z_dim": 16}, {"patch_size": [1, 2, 2]}, 16),
        ({"block_out_channels": [8] * 4, "latent_channels": 16}, {"all_patch_size": [2]}, 16),
        ({"encoder_block_out_channels": [8] * 6}, {"patch_size": 1}, 32),
        (
            {"block_out_channels": [8] * 4, "patch_size": 4, "latent_channels": 128},
            {"in_channels": 128, "patch_size": 1},
            32,
        ),
        ({}, {"patch_size": 2}, 8),
        ({"block_out_channels": "four", "latent_channels": None}, {"in_channels": "many"}, 8),
    ],
    ids=["SD", "two levels", "Flux", "Flux Fill", "Flux 2", "Qwen-Image", "Wan", "Z-Image", "Sana",
         "LTX", "unknown autoencoder", "malformed"],
)  # fmt: skip
def test_side_multiple_comes_from_the_models_own_configurations(
    bench: Bench, vae: dict[str, Any], transformer: dict[str, Any], multiple: int
):
    configured(bench, vae=vae, transformer=transformer)
    assert side_multiple(bench.model) == multiple


def configured(bench: Bench, **components: dict[str, Any]) -> None:
    """Writes these configurations for components of the model."""
    for name, config in components.items():
        (bench.model / name).mkdir(exist_ok=True)
        (bench.model / name / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("pipeline", "sides"),
    [
        ("StableDiffusionPipeline", Sides(multiple_px=8, are_rounded=False)),
        ("StableDiffusion3Pipeline", Sides(multiple_px=None, are_rounded=False)),
        ("FluxPipeline", Sides(multiple_px=None, are_rounded=True)),
        ("ZImagePipeline", Sides(multiple_px=None, are_rounded=False)),
        ("SanaPipeline", Sides(multiple_px=32, are_rounded=False)),
        ("WanPipeline", Sides(multiple_px=16, are_rounded=False)),
        ("KandinskyV22Pipeline", None),
    ],
)
def test_checks_of_sides_are_read_from_the_pipelines_messages(pipeline: str, sides: Sides | None):
    signature = call_signature(pipeline)
    assert signature is not None
    assert signature.sides == sides


def test_size_that_is_no_multiple_is_refused_with_the_nearest(bench: Bench):
    document = calling("StableDiffusion3Pipeline", width=1000, height=1)
    configured(bench, vae={"block_out_channels": [8] * 4}, transformer={"patch_size": 2})
    assert bench.problems(document) == {
        f"{ARGUMENTS}.width": "1000 is not a multiple of 16, which StableDiffusion3Pipeline needs."
        " The nearest is 1008.",
        f"{ARGUMENTS}.height": "1 is not a multiple of 16, which StableDiffusion3Pipeline needs."
        " The nearest is 16.",
    }


def test_size_that_the_pipeline_rounds_is_a_warning(bench: Bench):
    document = calling("FluxPipeline", prompt="a fox", width=1000, height=1024)
    configured(bench, vae={"block_out_channels": [8] * 4}, transformer={"patch_size": 2})
    assert bench.plan(document).warnings == (
        f"{ARGUMENTS}.width: 1000 is not a multiple of 16, so FluxPipeline rounds it. The nearest"
        " is 1008.",
    )
    assert list(bench.problems(calling("FluxPipeline", width=1))) == [f"{ARGUMENTS}.width"]


def test_size_is_checked_against_a_model_in_the_hubs_cache(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    configured(bench, vae={"block_out_channels": [8] * 4}, transformer={"patch_size": 2})
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(bench.model, repository / "snapshots" / "abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    document = calling("StableDiffusion3Pipeline", width=1000)
    document["steps"][0]["pipeline"]["from_pretrained_arguments"]["model_name"] = "some/model"
    assert [*bench.problems(document)] == [f"{ARGUMENTS}.width"]


def test_typed_size_is_reported_at_its_input(bench: Bench):
    document = drawing(variables={"width": 64}, steps=[step(arguments={"width": "variable:width"})])
    assert list(bench.problems(document, width=63)) == ["inputs.width"]


@pytest.mark.parametrize(("side", "fits"), [(1, False), (7, False), (8, True)])
def test_too_small_image_is_refused(bench: Bench, side: int, fits: bool):
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
def test_json_types_of_annotation(annotation: str, kinds: set[str] | None):
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
def test_argument_of_wrong_type_or_range_is_refused(
    bench: Bench, arguments: dict[str, Any], sentence: str
):
    (name,) = arguments
    document = calling("StableDiffusionPipeline", **arguments)
    assert bench.problems(document) == {f"{ARGUMENTS}.{name}": sentence}


def test_null_is_allowed_for_default_none(bench: Bench):
    assert bench.plan(calling("StableDiffusionPipeline", height=None, prompt="a fox")).steps


def test_strength_outside_zero_to_one_is_refused(bench: Bench):
    bench.picture("a.png", bench.workflows)
    document = calling("StableDiffusionImg2ImgPipeline", prompt="a", image="a.png", strength=1.5)
    assert bench.problems(document) == {f"{ARGUMENTS}.strength": "1.5 is outside 0 to 1."}


# --- results and packages ------------------------------------------------------------------------


def test_misspelt_result_property_is_refused(bench: Bench):
    wrong = step("again", arguments={"ip_adapter_image": "previous_result:draw.image"})
    assert bench.problems(drawing(steps=[step(), wrong])) == {
        "steps[1].pipeline.arguments.ip_adapter_image": "Step 'draw' makes no 'image'."
        " Did you mean 'images'?"
    }


def test_longest_dotted_step_name_is_referenced(bench: Bench):
    steps = [step("a"), step("a.b"), step("c", arguments={"prompt": "previous_result:a.b.images"})]
    (value,) = bench.plan(drawing(steps=steps)).steps[2].arguments.values()
    assert (value.step, value.property) == ("a.b", "images")


def test_class_of_missing_package_is_refused_with_command(bench: Bench):
    document = calling("SpectrogramDiffusionPipeline")
    place = "steps[0].pipeline.configuration.component_type"
    assert bench.problems(document)[place] == (
        "'SpectrogramDiffusionPipeline' needs note-seq, which is not installed."
        " Add it with: pip install note-seq"
    )


def test_allowed_sizes_are_accepted(bench: Bench):
    assert MODEL
    assert bench.plan(calling("FluxPipeline", prompt="a fox", width=512, height=768)).warnings == ()
