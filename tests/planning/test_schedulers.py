"""Schedulers of a document and their settings."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.plan_bench import Bench, drawing, step

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
