"""Schedulers of a document and their settings."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from app.packages import Package
from tests import sampler_table
from tests.plan_bench import Bench, drawing, step

LMS = Package("scipy", "scipy")
AT = "steps[0].pipeline.scheduler.from_config_args"


def scheduled(settings: dict[str, Any], scheduler: str | None = None) -> dict[str, Any]:
    block: dict[str, Any] = {"from_config_args": settings}
    if scheduler:
        block["configuration"] = {"scheduler_type": scheduler}
    return drawing(steps=[step(scheduler=block)])


@pytest.mark.parametrize(
    ("scheduler", "setting", "hint"),
    [
        ("EulerDiscreteScheduler", "use_karras_sigma", " Did you mean 'use_karras_sigmas'?"),
        ("DDIMScheduler", "use_karras_sigmas", ""),
        ("FlowMatchEulerDiscreteScheduler", "algorithm_type", ""),
    ],
)
def test_setting_that_a_scheduler_does_not_have_is_a_warning(
    bench: Bench, scheduler: str, setting: str, hint: str
):
    assert bench.plan(scheduled({setting: True}, scheduler)).warnings == (
        f"{AT}.{setting} has no effect: {scheduler} has no setting '{setting}'.{hint}",
    )


def test_known_setting_has_no_warning(bench: Bench):
    known = {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}
    assert bench.plan(scheduled(known, "DPMSolverMultistepScheduler")).warnings == ()


def test_setting_is_checked_for_the_models_own_scheduler(bench: Bench):
    config = bench.model / "scheduler" / "scheduler_config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    (warning,) = bench.plan(scheduled({"use_karras_sigmas": True})).warnings
    assert "DDIMScheduler has no setting" in warning
    config.write_text("[]")
    assert bench.plan(scheduled({"use_karras_sigmas": True})).warnings == ()


# --- packages -------------------------------------------------------------------------------------

NEEDING = [
    ("DPMSolverSDEScheduler", {}, "torchsde"),
    ("CosineDPMSolverMultistepScheduler", {}, "torchsde"),
    ("LMSDiscreteScheduler", {}, "scipy"),
    ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "scipy"),
    ("DPMSolverMultistepScheduler", {"use_beta_sigmas": True}, "scipy"),
]


@pytest.mark.parametrize(("scheduler", "settings", "package"), NEEDING)
def test_missing_package_of_scheduler_is_reported(
    bench: Bench, scheduler: str, settings: dict[str, Any], package: str
):
    at = "steps[0].pipeline.scheduler.configuration.scheduler_type"
    problems = bench.problems(scheduled(settings, scheduler))
    assert list(problems) == [at]
    assert f"needs {package}, which is not installed." in problems[at]
    assert re.search(rf"pip install {package}==[0-9.]+$", problems[at])


@pytest.mark.parametrize(("scheduler", "settings", "package"), NEEDING)
def test_missing_package_of_the_models_own_scheduler_is_reported(
    bench: Bench, scheduler: str, settings: dict[str, Any], package: str
):
    config = bench.model / "scheduler" / "scheduler_config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"_class_name": scheduler, **settings}))
    at = "steps[0].pipeline.from_pretrained_arguments.model_name"
    problems = bench.problems(drawing())
    assert list(problems) == [at]
    assert f"needs {package}" in problems[at]
    # Another scheduler, which takes over only what it knows.
    assert bench.plan(scheduled({"use_beta_sigmas": False}, "DDIMScheduler")).steps


def test_setting_of_the_model_is_taken_over_by_another_scheduler(bench: Bench):
    config = bench.model / "scheduler" / "scheduler_config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"_class_name": "DDIMScheduler", "use_beta_sigmas": True}))
    assert bench.plan(drawing()).steps
    (problem,) = bench.problems(scheduled({}, "EulerDiscreteScheduler")).values()
    assert problem.startswith("'use_beta_sigmas' of EulerDiscreteScheduler needs scipy")


# --- names that people use -----------------------------------------------------------------------

TYPE = "steps[0].pipeline.scheduler.configuration.scheduler_type"


@pytest.mark.parametrize(
    ("name", "class_name", "settings"),
    [
        ("Euler a", "EulerAncestralDiscreteScheduler", {}),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler", {}),
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler",
         {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True,
          "use_exponential_sigmas": False, "use_beta_sigmas": False}),
        ("dpmpp_2m_sde", "DPMSolverMultistepScheduler",
         {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
        ("dpm++ 2m sde karras", "DPMSolverMultistepScheduler",
         {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_karras_sigmas": True,
          "use_exponential_sigmas": False, "use_beta_sigmas": False}),
        ("UniPC", "UniPCMultistepScheduler", {}),
        ("uni_pc", "UniPCMultistepScheduler", {}),
        ("DDIM", "DDIMScheduler", {}),
        ("LCM", "LCMScheduler", {}),
        ("Heun", "HeunDiscreteScheduler", {}),
        ("DPM2 a", "KDPM2AncestralDiscreteScheduler", {}),
        ("Euler SGM Uniform", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ],
)  # fmt: skip
def test_name_that_people_use_is_a_class_with_settings(
    bench: Bench, name: str, class_name: str, settings: dict[str, Any]
):
    (planned,) = bench.plan(scheduled({}, name)).steps
    assert planned.scheduler.class_name == f"diffusers.{class_name}"
    assert planned.scheduler.config == settings


def test_settings_of_the_document_come_after_those_of_the_name(bench: Bench):
    (planned,) = bench.plan(scheduled({"solver_order": 3, "beta_end": 0.1}, "DPM++ 2M")).steps
    assert planned.scheduler.config == {
        "algorithm_type": "dpmsolver++", "solver_order": 3, "beta_end": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DPM++ 2M Karas", "Did you mean 'DPM++ 2M Karras'?"),
        ("Eulr a", "Did you mean 'Euler a'?"),
        ("UniPV", "Did you mean 'UniPC'?"),
        ("magic", "There are DDIM, DDPM, DEIS,"),
    ],
)
def test_unknown_name_suggests_nearest(bench: Bench, name: str, hint: str):
    (message,) = bench.problems(scheduled({}, name)).values()
    assert message.startswith(f"There is no scheduler '{name}'. {hint}")


def test_unknown_class_suggests_nearest_class(bench: Bench):
    (message,) = bench.problems(scheduled({}, "EulerDiscretScheduler")).values()
    assert "Did you mean 'EulerDiscreteScheduler'?" in message


def test_name_whose_package_is_missing_tells_it(bench: Bench):
    if LMS.is_missing:
        (message,) = bench.problems(scheduled({}, "LMS Karras")).values()
        assert message.startswith("'LMS Karras' needs scipy, which is not installed.")
    else:
        assert bench.plan(scheduled({}, "LMS Karras")).steps


def test_input_may_choose_a_name(bench: Bench):
    document = scheduled({}, "variable:sampler")
    document["variables"]["sampler"] = "Euler a"
    (planned,) = bench.plan(document, sampler="DPM++ 2M").steps
    assert planned.scheduler.class_name == "diffusers.DPMSolverMultistepScheduler"
    told = bench.problems(document, sampler="Eulr")
    assert told == {"inputs.sampler": "There is no scheduler 'Eulr'. Did you mean 'Euler'?"}


def test_name_for_a_flow_matching_model_is_a_warning(bench: Bench):
    config = bench.model / "scheduler" / "scheduler_config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    assert bench.plan(scheduled({}, "Euler a")).warnings == (
        f"{TYPE}: 'Euler a' is for models that predict noise; this one was trained for"
        " FlowMatchEulerDiscreteScheduler, and may draw nothing with another.",
    )


def test_table_of_names_is_current():
    assert sampler_table.page() == sampler_table.PAGE.read_text(encoding="utf-8"), (
        "run: python -m tests.sampler_table"
    )
