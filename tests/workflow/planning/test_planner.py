"""A document and its inputs become a plan in which everything is resolved."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from app.errors import InvalidInputs
from app.workflow.plan import Plan
from app.workflow.plan_values import (
    DTypeValue,
    FileValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    ResultValue,
)
from app.workflow.planning.planner import MAX_SEED, make_plan
from tests.workflow.bench import MODEL, Bench, drawing, step


def with_arguments(**arguments: Any) -> dict[str, Any]:
    return drawing(steps=[step(arguments=arguments)])


def test_a_plan_holds_everything_resolved(bench: Bench):
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


def test_a_hub_model_is_taken_from_a_models_folder_first(bench: Bench):
    document = drawing(steps=[step(from_pretrained_arguments={"model_name": "owner/name"})])
    assert bench.plan(document).steps[0].source.folder is None
    folder = bench.model.parent / "owner" / "name"
    shutil.copytree(bench.model, folder)
    (drawn,) = bench.plan(document).steps
    assert (drawn.source.model, drawn.source.folder) == ("owner/name", str(folder.resolve()))


def test_a_plan_crosses_a_pipe_unchanged(bench: Bench):
    document = drawing(steps=[step(), step("again", arguments={"image": "previous_result:draw"})])
    document["steps"][1]["pipeline"]["configuration"] = {
        "component_type": "StableDiffusionImg2ImgPipeline"
    }
    plan = bench.plan(document)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_result_of_an_earlier_step_may_be_named_with_a_property(bench: Bench):
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


def test_a_documents_picture_lies_beside_the_document(bench: Bench):
    file = bench.picture("beside.png", bench.workflows)
    for written in ("beside.png", {"location": "beside.png"}):
        value = bench.plan(with_arguments(ip_adapter_image=written)).steps[0].arguments
        assert isinstance(value["ip_adapter_image"], FileValue)
        assert value["ip_adapter_image"].path == str(file.resolve())


def test_lists_and_objects_keep_what_is_special_inside_them(bench: Bench):
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


def test_a_braced_text_stays_a_text(bench: Bench):
    plan = bench.plan(with_arguments(output_type="{latent}"))
    assert plan.steps[0].arguments["output_type"] == LiteralValue(value="latent")


def test_components_loras_and_a_scheduler_are_part_of_the_step(bench: Bench):
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


def test_an_unknown_top_level_key_is_a_warning_with_the_nearest_known_one(bench: Bench):
    (warning,) = bench.plan(drawing(descripton="shapes")).warnings
    assert warning == (
        "descripton: The key 'descripton' is not known and is ignored. Did you mean 'description'?"
    )


# --- seeds ---------------------------------------------------------------------------------------


def test_a_given_seed_wins_over_the_documents(bench: Bench):
    plan = bench.plan(drawing(seed=5), seed=9)
    assert (plan.seed, plan.steps[0].seed, plan.seed_given) == (9, 9, True)


def test_the_documents_seed_is_used_where_none_is_given(bench: Bench):
    plan = bench.plan(drawing(seed=5))
    assert (plan.seed, plan.steps[0].seed, plan.seed_given) == (5, 5, True)


def test_a_seed_that_is_a_variable_counts_as_given(bench: Bench):
    document = drawing(variables={**drawing()["variables"], "seed": 5}, seed="variable:seed")
    plan = bench.plan(document)
    assert (plan.seed, plan.seed_given) == (5, True)


@pytest.mark.parametrize(
    ("default", "inputs", "seed", "used"),
    [(42, {}, 7, 7), (None, {}, 7, 7), (42, {"seed": 9}, None, 9), (42, {}, None, 42)],
)
def test_seed_of_the_run_and_variable_named_seed_are_one(
    bench: Bench, default: int | None, inputs: dict[str, int], seed: int | None, used: int
):
    document = drawing(variables={**drawing()["variables"], "seed": default})
    document["steps"][0]["seed"] = "variable:seed"
    plan = make_plan(bench.write(document), inputs, paths=bench.paths, seed=seed)
    assert (plan.seed, plan.steps[0].seed, plan.seed_given) == (used, used, True)


def test_drawn_seeds_are_below_two_to_the_53(bench: Bench):
    drawn = [bench.plan(drawing()).seed for _ in range(20)]
    assert all(0 <= seed < 2**53 for seed in drawn)
    assert len(set(drawn)) == 20


def test_without_any_seed_one_is_drawn_for_each_run_and_shared_by_its_steps(bench: Bench):
    document = drawing(steps=[step("first"), step("second")])
    plans = [bench.plan(document) for _ in range(3)]
    assert len({plan.seed for plan in plans}) == 3
    assert not any(plan.seed_given for plan in plans)
    assert all(drawn.seed == plan.seed for plan in plans for drawn in plan.steps)


def test_a_steps_own_seed_wins_for_that_step(bench: Bench):
    inside, beside = step("inside", seed=1), step("beside") | {"seed": 2}
    plan = bench.plan(drawing(steps=[inside, beside, step("none")]), seed=3)
    assert [drawn.seed for drawn in plan.steps] == [1, 2, 3]


@pytest.mark.parametrize("seed", [0, MAX_SEED])
def test_the_ends_of_the_range_are_seeds(bench: Bench, seed: int):
    assert bench.plan(drawing(), seed=seed).seed == seed


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_out_of_range_is_refused(bench: Bench, seed: int):
    with pytest.raises(InvalidInputs, match=f"seed: {seed} is outside 0 to {MAX_SEED}") as caught:
        bench.plan(drawing(), seed=seed, stepps=3)
    assert len(caught.value.problems) == 2, "what else is wrong is told with it"


def test_a_documents_seed_out_of_range_is_refused_with_its_place(bench: Bench):
    assert "seed" in bench.problems(drawing(seed=MAX_SEED + 1))


def test_no_prompt_is_sent_to_a_remote_text_encoder_the_models_own_is_used(bench: Bench):
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
