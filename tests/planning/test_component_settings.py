"""Settings of components: checked and planned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.dialect.loader import read_document
from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import CompileBlock, ComponentChanges, LayerwiseCasting
from app.planning.component_settings import PLACEMENT_WARNING, SLICING_WARNING
from app.planning.declarations import declared_inputs
from tests.plan_bench import MODEL, Bench, Document, drawing, step

GROUPS = {"offload_type": "leaf_level", "use_stream": True}
CASTING = {"storage_dtype": "torch.float8_e4m3fn", "compute_dtype": "torch.bfloat16"}
WHERE = "steps[0].pipeline.configuration"


@pytest.fixture
def bench(bench: Bench) -> Bench:
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "safety_checker": [None, None],
    }
    bench.consists_of(parts)
    return bench


def configured(**configuration: Any) -> Document:
    return drawing(
        steps=[step(configuration={"component_type": "StableDiffusionPipeline", **configuration})]
    )


def planned(bench: Bench, **configuration: Any) -> PipelineStep:
    (found,) = bench.plan(configured(**configuration), seed=1).steps
    assert isinstance(found, PipelineStep)
    return found


# --- components.<name or dotted.path> ------------------------------------------------------------


def test_removed_modules_are_paths_from_component(bench: Bench):
    found = planned(
        bench,
        components={
            "text_encoder": {"remove_modules": ["lm_head"]},
            "text_encoder.model": {"truncate_layers": {"language.layers": 51}},
        },
    )
    assert found.changes == {
        "text_encoder": ComponentChanges(
            kept_layers={"model.language.layers": 51}, removed=("lm_head",)
        )
    }


def test_compile_is_a_change_and_attention_and_tiling_are_tunings(bench: Bench):
    found = planned(
        bench,
        components={
            "unet": {
                "compile": {"repeated_blocks": True, "fullgraph": True},
                "attention_backend": "_native_math",
            },
            "vae": {"enable_tiling": {"tile_size": 64}},
        },
    )
    compiled = CompileBlock(repeated_blocks=True, fullgraph=True)
    assert found.changes == {"unet": ComponentChanges(compiled={"": compiled})}
    assert found.tunings["unet"].attention_backend == "_native_math"
    assert found.tunings["vae"].tiling == {"tile_size": 64}
    assert found.vae_tiling


def test_tiling_of_vae_component_is_vae_tiling(bench: Bench):
    components = planned(bench, components={"vae": {"enable_tiling": True}})
    assert components == planned(bench, vae={"enable_tiling": True})


@pytest.mark.parametrize(
    ("configuration", "where", "message"),
    [
        (
            {"components": {"text_encodr": {}}},
            f"{WHERE}.components.text_encodr",
            "The pipeline of 'draw' has no component 'text_encodr'. Did you mean 'text_encoder'?",
        ),
        (
            {"components": {"a b": {}}},
            f'{WHERE}.components["a b"]',
            "'a b' is not the path of a component.",
        ),
        (
            {"components": {"unet": {"compile": {"fulgraph": True}}}},
            f"{WHERE}.components.unet.compile.fulgraph",
            "'fulgraph' is not a known key. Did you mean 'fullgraph'?",
        ),
        (
            {"components": {"unet": {"group_offload": {"offload_type": "disk"}}}},
            f"{WHERE}.components.unet.group_offload.offload_type",
            "'disk' is not one of 'block_level' or 'leaf_level'.",
        ),
        (
            {"components": {"unet": {"truncate_layers": {"blocks": 0}}}},
            f"{WHERE}.components.unet.truncate_layers.blocks",
            "0 is too small; 1 is the least.",
        ),
        (
            {"components": {"unet": {"attention_backend": "flesh"}}},
            f"{WHERE}.components.unet.attention_backend",
            "'flesh' is not a known value. Did you mean 'flash'?",
        ),
        (
            {"enable_layerwise_casting": {**CASTING, "storage_dtype": "torch.int4"}},
            f"{WHERE}.enable_layerwise_casting.storage_dtype",
            "'int4' is not one of",
        ),
        (
            {"enable_layerwise_casting": {"storage_dtype": "torch.float8_e4m3fn"}},
            f"{WHERE}.enable_layerwise_casting.compute_dtype",
            "'compute_dtype' is missing.",
        ),
        (
            {"text_encoder": {"torch_dtype": "torch.float33"}},
            f"{WHERE}.text_encoder.torch_dtype",
            "'float33' is not one of",
        ),
        (
            {"component_dtypes": {"vae": {"torch_dtype": "torch.float32"}}},
            WHERE,
            "'component_dtypes' is not a known key.",
        ),
        (
            {"offload": "sequential", "exclude_from_cpu_offload": ["unte"]},
            f"{WHERE}.exclude_from_cpu_offload[0]",
            "The pipeline of 'draw' has no component 'unte'. Did you mean 'unet'?",
        ),
        (
            {"transformer": {"attn_processor_type": "diffusers.os.FluxAttnProcessor"}},
            f"{WHERE}.transformer.attn_processor_type",
            "The pipeline of 'draw' has no component 'transformer'.",
        ),
        (
            {"unet": {"attn_processor_type": "diffusers.os.AttnProcessor"}},
            f"{WHERE}.unet.attn_processor_type",
            "'diffusers.os.AttnProcessor' is not an attention processor of diffusers.",
        ),
    ],
)
def test_wrong_setting_is_refused_with_place(
    bench: Bench, configuration: Document, where: str, message: str
):
    problems = bench.problems(configured(**configuration))
    assert list(problems) == [where]
    assert problems[where].startswith(message)


def test_mistyped_setting_is_a_warning(bench: Bench):
    (warning,) = bench.plan(configured(components={"unet": {"residensy": "resident"}})).warnings
    assert warning.startswith(
        f"{WHERE}.components.unet.residensy: The key 'residensy' is not known"
    )
    assert warning.endswith("Did you mean 'residency'?")


def test_setting_of_unknown_component_is_a_warning(bench: Bench):
    wanted = configured(components={"safety_checker": {"remove_modules": ["head"]}})
    (warning,) = bench.plan(wanted).warnings
    assert warning == (
        "The pipeline of 'draw' runs without its safety_checker: what is set for it decides"
        " nothing."
    )


def test_setting_of_reused_component_is_a_warning(bench: Bench):
    later = step(
        "again",
        configuration={
            "component_type": "StableDiffusionPipeline",
            "components": {"vae": {"compile": {}}},
        },
        reused_components=["vae"],
    )
    plan = bench.plan(drawing(steps=[step(shared_components=["vae"]), later]))
    assert "that of an earlier step" in "".join(plan.warnings)
    assert isinstance(plan.steps[1], PipelineStep)
    assert plan.steps[1].changes == {}


# --- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "configuration",
    [
        {"device": "cuda:1"},
        {"group_offload": GROUPS},
        {"components": {"unet": {"device": "cuda"}}},
        {"components": {"unet": {"residency": "on_demand"}}},
        {"components": {"unet": {"group_offload": {**GROUPS, "offload_type": "{leaf_level}"}}}},
    ],
)
def test_placement_settings_are_one_warning(bench: Bench, configuration: Document):
    plan = bench.plan(configured(**configuration), seed=1)
    assert plan.warnings == (PLACEMENT_WARNING,)
    (found,) = plan.steps
    grouped = found.model_copy(update={"streams": False})
    assert grouped == planned(bench)
    assert found.streams == ("group_offload" in json.dumps(configuration))


@pytest.mark.parametrize("inside", [True, False])
def test_component_block_takes_settings_in_both_places(bench: Bench, inside: bool):
    both = {"group_offload": GROUPS, "enable_layerwise_casting": CASTING}
    block: Document = {
        "configuration": {"component_type": "AutoencoderKL", **(both if inside else {})},
        "from_pretrained_arguments": {"model_name": MODEL},
        **({} if inside else both),
    }
    (found,) = bench.plan(drawing(steps=[step(vae=block)])).steps
    assert isinstance(found, PipelineStep)
    assert found.streams
    casting = LayerwiseCasting(storage_dtype="float8_e4m3fn", compute_dtype="bfloat16")
    assert found.changes == {"vae": ComponentChanges(casting=casting)}


def test_offload_exclusion_without_sequential_is_a_warning(bench: Bench):
    plan = bench.plan(configured(exclude_from_cpu_offload=["vae"]))
    assert plan.warnings == (
        "'exclude_from_cpu_offload' has no effect without sequential offload.",
    )


def test_attention_slicing_is_a_warning(bench: Bench):
    plan = bench.plan(configured(enable_attention_slicing=True, disable_attention_slicing=False))
    assert plan.warnings == (SLICING_WARNING,)
    assert planned(bench, disable_attention_slicing=True) == planned(bench)


# --- weights in the prompt -----------------------------------------------------------------------


def switched(default: object) -> Document:
    made = configured(prompt_weighting="variable:weighting")
    return {**made, "variables": {**made["variables"], "weighting": default}}


@pytest.mark.parametrize("on", [True, False])
def test_person_may_switch_weights_of_the_prompt(bench: Bench, on: bool):
    wanted = switched(not on)
    (spec,) = [
        spec
        for spec in declared_inputs(read_document(bench.write(wanted)))
        if spec.name == "weighting"
    ]
    assert spec.kind == "checkbox"
    plan = bench.plan(wanted, weighting=on)
    (found,) = plan.steps
    assert isinstance(found, PipelineStep)
    assert found.prompt_weighting is on
    assert plan.warnings == ()


def test_switch_of_weights_is_true_or_false(bench: Bench):
    assert list(bench.problems(switched("yes"))) == [f"{WHERE}.prompt_weighting"]


# --- dtypes --------------------------------------------------------------------------------------


def test_dtype_is_set_for_any_component(bench: Bench):
    block = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {"model_name": MODEL, "torch_dtype": "torch.bfloat16"},
    }
    configuration = {
        "component_type": "StableDiffusionPipeline",
        "vae": {"torch_dtype": "torch.float32"},
        "text_encoder": {"torch_dtype": "torch.float16"},
    }
    (found,) = bench.plan(drawing(steps=[step(vae=block, configuration=configuration)])).steps
    assert isinstance(found, PipelineStep)
    assert found.dtypes == {"text_encoder": "float16"}
    assert found.components["vae"].dtype == "float32"
