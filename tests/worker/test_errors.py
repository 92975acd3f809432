"""A failing run says what and where, and does not affect later runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from app.dialect.plan import Plan
from app.dialect.plan_values import LiteralValue
from app.protocol import TERMINAL, ResultSaved, RunFailed
from app.worker.failures import refuse_nan
from tests.worker.bench import Bench, Document, document, same, step

GOOD = document(step(), id="good")
FAILS: dict[str, Any] = {"sigmas": [1.0, 0.5]}
"""Refused only by the call: the model's scheduler takes no sigmas."""
MANY = LiteralValue(value=10**9)
"""More images at once than any machine could hold, and than planning would accept."""


def failed(bench: Bench, wanted: Document | Plan) -> RunFailed:
    finished = bench.run(wanted)
    assert sum(isinstance(event, TERMINAL) for event in finished.events) == 1
    assert isinstance(finished.terminal, RunFailed)
    return finished.terminal


def test_failing_step_is_named_and_its_components_stay(bench: Bench):
    before = bench.run(GOOD)
    error = failed(bench, document(step("sketch", **FAILS), id="bad")).error
    assert error.kind == "StepError"
    assert error.message.startswith("ValueError in step 'sketch': The current scheduler class")
    assert "Traceback" in error.detail
    assert "Traceback" not in error.sentence()
    after = bench.run(GOOD)
    assert after.success.loaded == ()
    assert same(before, after)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "DPMSolverMultistepScheduler",
            {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"},
        ),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "sideways"}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "sideways"}),
    ],
)
def test_scheduler_that_fails_is_named_with_its_settings(
    bench: Bench, name: str, settings: dict[str, Any]
):
    block = {"configuration": {"scheduler_type": name}, "from_config_args": settings}
    bad = step(blocks={"scheduler": block}, num_inference_steps=20)
    error = failed(bench, document(bad, id="bad")).error
    assert error.kind == "StepError"
    assert error.message.startswith(f"The scheduler {name} (")
    assert all(f"{key}={value!r}" in error.message for key, value in settings.items())
    assert "choose another scheduler" in error.hint
    assert bench.run(GOOD).success


def test_nan_image_is_an_error_and_not_saved_black(bench: Bench, model: Path):
    (weights,) = (model / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["decoder.conv_out.bias"].fill_(float("nan"))
    save_file(tensors, weights, {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuse_nan()
        finished = bench.run(document(step(model=model)))
    assert isinstance(finished.terminal, RunFailed)
    assert finished.terminal.error.message == ("The picture of step 'draw' contains NaN.")
    assert "bfloat16 or float32" in finished.terminal.error.hint
    assert finished.results == ()


def test_failing_cold_run_keeps_loaded_components(bench: Bench):
    failed(bench, document(step(**FAILS)))
    assert bench.run(GOOD).success.loaded == ()


def test_failing_run_keeps_results_of_earlier_steps(bench: Bench):
    finished = bench.run(document(step("good"), step("bad", **FAILS)))
    assert isinstance(finished.terminal, RunFailed)
    assert "step 'bad'" in finished.terminal.error.message
    (result,) = finished.results
    assert Path(result.path).is_file()


def test_image_deleted_after_planning_is_named(bench: Bench, tmp_path: Path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    plan = bench.plan(document(step("vary", kind="Img2Img", image="picture.png")))
    picture.unlink()
    ended = bench.run(plan).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.kind == "StepError"
    assert ended.error.message == (
        "A picture can no longer be read: 'picture.png' cannot be read as a picture (No such file"
        " or directory)."
    )


def test_image_overwritten_after_planning_is_named(bench: Bench, tmp_path: Path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    plan = bench.plan(document(step("vary", kind="Img2Img", image="picture.png")))
    picture.write_bytes(b"half a pict")
    ended = bench.run(plan).terminal
    assert isinstance(ended, RunFailed)
    assert "can no longer be read" in ended.error.message


def test_too_many_images_are_refused_before_loading(bench: Bench):
    before = bench.run(GOOD)
    plan = bench.plan(document(id="huge"))
    arguments = {**plan.steps[0].arguments, "num_images_per_prompt": MANY}
    huge = plan.steps[0].model_copy(update={"arguments": arguments})
    error = failed(bench, plan.model_copy(update={"steps": (huge,)})).error
    assert error.kind == "TooLarge"
    assert error.message.startswith("Step 'draw' needs about ")
    assert "fewer at once" in error.hint
    after = bench.run(GOOD)
    assert after.success.loaded == ()
    assert same(before, after)


def test_model_removed_after_planning_is_a_load_error(bench: Bench, tmp_path: Path):
    (tmp_path / "model").mkdir()
    index = tmp_path / "model" / "model_index.json"
    index.write_text('{"_class_name": "StableDiffusionPipeline"}')
    plan = bench.plan(document(step(model="model")))
    index.unlink()
    ended = bench.run(plan).terminal
    assert isinstance(ended, RunFailed)
    assert (ended.error.kind, ended.error.message) == (
        "LoadError",
        "'model' is not a diffusers model.",
    )


def test_unsupported_result_type_is_a_result_error(bench: Bench):
    error = failed(bench, document(step(output_type="{latent}"))).error
    assert error.kind == "ResultError"
    assert error.message == (
        "What the step made cannot be saved as a picture: a Tensor of 4x16x16 numbers is not a"
        " picture."
    )


def test_unwritable_folder_fails_run_but_not_worker(bench: Bench, tmp_path: Path):
    (tmp_path / "outputs").write_text("a file where the folder should be")
    finished = bench.run(GOOD)
    assert isinstance(finished.terminal, RunFailed)
    assert not any(isinstance(event, ResultSaved) for event in finished.events)
    (tmp_path / "outputs").unlink()
    assert bench.run(GOOD).success.loaded == ()


def test_failing_run_has_same_message_again(bench: Bench):
    first, second = (failed(bench, document(step(**FAILS))).error.message for _ in range(2))
    assert first == second
