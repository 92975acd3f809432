"""The scheduler of a step: the model's own or the document's, and new in every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

from app.dialect.installed.names import missing_packages
from app.dialect.sampler_names import sampler, sampler_names
from app.packages import Package
from tests.worker.bench import Bench, document, pixels, step

# diffusers' schedulers pass tensors to NumPy in a deprecated way.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)
PNDM = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "num_train_timesteps": 1000, "steps_offset": 1, "use_karras_sigmas": True}  # fmt: skip
"""Settings of a model, one of which another noise schedule replaces."""
NO_CHECKER = {"safety_checker": None}


def flow_matching(tmp_path: Path) -> str:
    from tests.standins import build_sd3

    build_sd3(tmp_path / "model")
    return "3"


def scheduler(bench: Bench, kind: str = "", **changes: Any) -> Any:
    blocks = {"scheduler": changes} if changes else {}
    loading = {} if kind else NO_CHECKER
    wanted = step(model="model", kind=kind, loading=loading, blocks=blocks)
    return bench.assembled(document(wanted)).scheduler


def test_scheduler_defaults_to_the_model(bench: Bench, model: Path):
    assert type(scheduler(bench)) is diffusers.PNDMScheduler


def test_scheduler_class_change_keeps_model_settings(bench: Bench, model: Path):
    changed = scheduler(bench, configuration={"scheduler_type": "EulerDiscreteScheduler"})
    assert type(changed) is diffusers.EulerDiscreteScheduler
    assert changed.config.beta_end == scheduler(bench).config.beta_end != 0.02


def test_scheduler_settings_of_document_override_model(bench: Bench, model: Path):
    changed = scheduler(
        bench,
        configuration={"scheduler_type": "EulerDiscreteScheduler"},
        from_config_args={"use_karras_sigmas": True, "beta_end": 0.5},
    )
    assert changed.config.use_karras_sigmas is True
    assert changed.config.beta_end == 0.5
    kept = scheduler(bench, from_config_args={"beta_end": 0.25})
    assert (type(kept), kept.config.beta_end) == (diffusers.PNDMScheduler, 0.25)


def test_scheduler_shift_is_applied(bench: Bench, tmp_path: Path):
    kind = flow_matching(tmp_path)
    sigmas = {}
    for shift in (None, 1.0, 9.0):
        one = scheduler(bench, kind, **({"shift": shift} if shift else {}))
        one.set_timesteps(5)
        sigmas[shift] = one.sigmas
    assert (sigmas[9.0][1:-1] > sigmas[None][1:-1]).all()
    assert (sigmas[1.0][1:-1] < sigmas[None][1:-1]).all()


def test_scheduler_without_shift_is_refused(bench: Bench, model: Path):
    error = bench.refused(document(step(model="model", blocks={"scheduler": {"shift": 3.0}})))
    assert error.message == "The scheduler PNDMScheduler has no shift."
    assert "steps[0].pipeline.scheduler" in error.hint


def test_scheduler_is_private_to_a_run(bench: Bench, tmp_path: Path):
    """PNDM keeps the last model outputs: a shared scheduler would leak them between runs."""
    changed = {
        "configuration": {"scheduler_type": "PNDMScheduler"},
        "from_config_args": {"skip_prk_steps": True},
    }
    few = document(step(num_inference_steps=5, blocks={"scheduler": changed}), id="few")
    many = document(step(num_inference_steps=9, blocks={"scheduler": changed}), id="many")
    plain = document(step(num_inference_steps=5), id="plain")
    first = [pixels(bench.run(each))[0] for each in (plain, few)]
    bench.run(many)
    second = [pixels(bench.run(each))[0] for each in (plain, few)]
    assert (first[0] != first[1]).any(), "the change of scheduler changes nothing"
    for before, after in zip(first, second, strict=True):
        assert (before == after).all()


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_audio_scheduler_is_changed_separately(bench: Bench, tmp_path: Path):
    from tests.standins import build_minimax_h3

    build_minimax_h3(tmp_path / "h3")
    changes = {"audio_scheduler": {"shift": 5.0}}
    wanted = step(model="h3", loading={"workflow": "t2va"}, blocks=changes)
    wanted["pipeline"]["configuration"] = {"component_type": "ModularPipeline"}
    wanted["pipeline"]["arguments"] = {"prompt": "a red circle"}
    pipeline = bench.assembled(document(wanted))
    assert pipeline.audio_scheduler.shift == 5.0
    assert pipeline.scheduler.shift != 5.0


def test_missing_scheduler_is_reported(bench: Bench, model: Path):
    wanted = step(model="model", loading=NO_CHECKER, blocks={"audio_scheduler": {"shift": 5.0}})
    error = bench.refused(document(wanted))
    assert error.message == "The pipeline of 'model' has no audio_scheduler to change."
    assert error.hint == "Remove steps[0].pipeline.audio_scheduler."


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("name", sampler_names())
def test_scheduler_of_every_name_makes_timesteps(name: str):
    known = sampler(name)
    assert known is not None
    missing = missing_packages(f"diffusers.{known.class_name}")
    if missing or (name.endswith(" Beta") and Package("scipy", "scipy").is_missing):
        pytest.skip(f"{name} needs a package")
    made = getattr(diffusers, known.class_name).from_config(PNDM, **known.settings)
    made.set_timesteps(6)
    assert len(made.timesteps) >= 6
    assert {key: made.config[key] for key in known.settings} == known.settings
