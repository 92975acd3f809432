"""A document and its inputs become a completely resolved plan."""

from __future__ import annotations

import random
import shutil
from typing import Any

import pytest

from app.dialect.plan import Plan
from app.dialect.plan_values import (
    DTypeValue,
    FileValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    ResultValue,
)
from app.errors import InvalidInputs
from app.planning.planner import MAX_SEED, make_plan
from tests.plan_bench import MODEL, Bench, drawing, step


def with_arguments(**arguments: Any) -> dict[str, Any]:
    return drawing(steps=[step(arguments=arguments)])


def test_plan_is_completely_resolved(bench: Bench):
    plan = bench.plan(drawing(), seed=3, prompt="a blue star")
    (drawn,) = plan.steps
    assert (drawn.name, drawn.place, drawn.seed) == ("draw", "steps[0]", 3)
    assert drawn.pipeline_class == "diffusers.StableDiffusionPipeline"
    assert drawn.source.folder == str(bench.model.resolve())
    assert drawn.arguments == {
        "prompt": LiteralValue(value="a blue star"),
        "num_inference_steps": LiteralValue(value=20),
    }
    assert plan.inputs == {"prompt": "a blue star", "steps": 20}
    assert plan.document == drawing()


def test_models_folder_is_preferred_to_hub(bench: Bench):
    document = drawing(steps=[step(from_pretrained_arguments={"model_name": "owner/name"})])
    assert bench.plan(document).steps[0].source.folder is None
    folder = bench.model.parent / "owner" / "name"
    shutil.copytree(bench.model, folder)
    (drawn,) = bench.plan(document).steps
    assert (drawn.source.model, drawn.source.folder) == ("owner/name", str(folder.resolve()))


def test_plan_survives_json_unchanged(bench: Bench):
    document = drawing(steps=[step(), step("again", arguments={"image": "previous_result:draw"})])
    document["steps"][1]["pipeline"]["configuration"] = {
        "component_type": "StableDiffusionImg2ImgPipeline"
    }
    plan = bench.plan(document)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_reference_may_have_a_property(bench: Bench):
    document = drawing(
        steps=[
            step("draw"),
            step("draw.fine"),
            step(arguments={"image": "previous_result:draw.fine.images"}, name="last"),
        ]
    )
    document["steps"][2]["pipeline"]["configuration"]["component_type"] = (
        "StableDiffusionImg2ImgPipeline"
    )
    assert bench.plan(document).steps[2].arguments["image"] == ResultValue(
        step="draw.fine", property="images"
    )


def test_document_image_is_relative_to_document(bench: Bench):
    file = bench.picture("beside.png", bench.workflows)
    for written in ("beside.png", {"location": "beside.png"}):
        value = bench.plan(with_arguments(ip_adapter_image=written)).steps[0].arguments
        assert isinstance(value["ip_adapter_image"], FileValue)
        assert value["ip_adapter_image"].path == str(file.resolve())


def test_lists_and_objects_may_contain_special_values(bench: Bench):
    bench.picture("beside.png", bench.workflows)
    plan = bench.plan(
        with_arguments(
            ip_adapter_image=[{"location": "beside.png"}],
            cross_attention_kwargs={"dtype": "torch.float16", "scale": 0.5},
            sigmas=[1.0, 0.5],
        )
    )
    arguments = plan.steps[0].arguments
    assert isinstance(arguments["ip_adapter_image"], ListValue)
    assert isinstance(arguments["ip_adapter_image"].items[0], FileValue)
    assert arguments["cross_attention_kwargs"] == ObjectValue(
        entries={"dtype": DTypeValue(dtype="float16"), "scale": LiteralValue(value=0.5)}
    )
    assert arguments["sigmas"] == LiteralValue(value=[1.0, 0.5])


def test_braced_text_is_plain_text(bench: Bench):
    plan = bench.plan(with_arguments(output_type="{latent}"))
    assert plan.steps[0].arguments["output_type"] == LiteralValue(value="latent")


def test_components_loras_and_scheduler_are_planned(bench: Bench):
    document = drawing(
        steps=[
            step(
                from_pretrained_arguments={"model_name": "owner/name", "safety_checker": None},
                vae={
                    "configuration": {"component_type": "AutoencoderKL"},
                    "from_pretrained_arguments": {
                        "model_name": MODEL,
                        "subfolder": "vae",
                        "torch_dtype": "torch.bfloat16",
                    },
                },
                scheduler={
                    "configuration": {"scheduler_type": "EulerDiscreteScheduler"},
                    "from_config_args": {"use_karras_sigmas": True},
                },
                loras=[{"model_name": "owner/lora", "weight_name": "a.safetensors", "scale": 0.5}],
            )
        ]
    )
    (drawn,) = bench.plan(document).steps
    assert (drawn.source.model, drawn.source.folder) == ("owner/name", None)
    assert drawn.absent == ("safety_checker",)
    assert drawn.components["vae"].class_name == "diffusers.AutoencoderKL"
    assert (drawn.components["vae"].dtype, drawn.dtype) == ("bfloat16", "float32")
    assert drawn.scheduler is not None
    assert drawn.scheduler.class_name == "diffusers.EulerDiscreteScheduler"
    assert drawn.scheduler.config == {"use_karras_sigmas": True}
    (lora,) = drawn.loras
    assert (lora.adapter_name, lora.weight_name, lora.scale) == ("lora_0", "a.safetensors", 0.5)


def test_unknown_top_level_key_is_a_warning_with_nearest(bench: Bench):
    (warning,) = bench.plan(drawing(descripton="shapes")).warnings
    assert warning == (
        "descripton: The key 'descripton' is not known and is ignored. Did you mean 'description'?"
    )


# --- seeds ---------------------------------------------------------------------------------------


def test_given_seed_overrides_document(bench: Bench):
    plan = bench.plan(drawing(seed=5), seed=9)
    assert (plan.seed, plan.steps[0].seed, plan.seed_given) == (9, 9, True)


def test_document_seed_is_the_default(bench: Bench):
    plan = bench.plan(drawing(seed=5))
    assert (plan.seed, plan.steps[0].seed, plan.seed_given) == (5, 5, True)


def test_variable_seed_counts_as_given(bench: Bench):
    document = drawing(variables={**drawing()["variables"], "seed": 5}, seed="variable:seed")
    plan = bench.plan(document)
    assert (plan.seed, plan.seed_given) == (5, True)


@pytest.mark.parametrize(
    ("default", "inputs", "seed", "used"),
    [(42, {}, 7, 7), (None, {}, 7, 7), (42, {"seed": 9}, None, 9), (42, {}, None, 42)],
)
def test_variable_named_seed_is_run_seed(
    bench: Bench, default: int | None, inputs: dict[str, int], seed: int | None, used: int
):
    document = drawing(variables={**drawing()["variables"], "seed": default})
    document["steps"][0]["seed"] = "variable:seed"
    plan = make_plan(bench.write(document), inputs, paths=bench.paths, seed=seed)
    assert (plan.seed, plan.steps[0].seed, plan.seed_given) == (used, used, True)


def test_random_seed_is_below_two_to_the_53(bench: Bench):
    drawn = [bench.plan(drawing()).seed for _ in range(20)]
    assert all(0 <= seed < 2**53 for seed in drawn)
    assert len(set(drawn)) == 20


def test_random_seed_is_shared_by_all_steps(bench: Bench):
    document = drawing(steps=[step("first"), step("second")])
    plans = [bench.plan(document) for _ in range(3)]
    assert len({plan.seed for plan in plans}) == 3
    assert not any(plan.seed_given for plan in plans)
    assert all(drawn.seed == plan.seed for plan in plans for drawn in plan.steps)


def test_drawn_seed_leaves_pythons_random_numbers(bench: Bench):
    before = random.getstate()
    first, second = (bench.plan(drawing()).seed for _ in range(2))
    assert first != second
    assert random.getstate() == before


def test_step_seed_overrides_run_seed(bench: Bench):
    inside, beside = step("inside", seed=1), step("beside") | {"seed": 2}
    plan = bench.plan(drawing(steps=[inside, beside, step("none")]), seed=3)
    assert [drawn.seed for drawn in plan.steps] == [1, 2, 3]


@pytest.mark.parametrize("seed", [0, MAX_SEED])
def test_limits_of_seed_are_inclusive(bench: Bench, seed: int):
    assert bench.plan(drawing(), seed=seed).seed == seed


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seed_out_of_range_is_refused(bench: Bench, seed: int):
    with pytest.raises(InvalidInputs, match=f"seed: {seed} is outside 0 to {MAX_SEED}") as caught:
        bench.plan(drawing(), seed=seed, stepps=3)
    assert len(caught.value.problems) == 2, "what else is wrong is told with it"


def test_document_seed_out_of_range_is_refused_with_place(bench: Bench):
    assert "seed" in bench.problems(drawing(seed=MAX_SEED + 1))


def test_remote_text_encoder_is_not_used(bench: Bench):
    document = drawing(
        steps=[
            step(
                from_pretrained_arguments={"model_name": MODEL, "text_encoder": None},
                remote_text_encoder={"url": "https://far.example/predict"},
            )
        ]
    )
    plan = bench.plan(document)
    assert "text_encoder" not in plan.steps[0].absent
    (warning,) = plan.warnings
    assert "nothing is sent to another" in warning
