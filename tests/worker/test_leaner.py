"""The next mode of a step that ran out of memory."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import ModelSource
from app.worker.retry import SWITCHES, difference, leaner


def asked(**changes: Any) -> PipelineStep:
    return PipelineStep(
        name="draw",
        place="steps[0]",
        pipeline_class="diffusers.StableDiffusionPipeline",
        source=ModelSource(model="a"),
        arguments={},
        seed=0,
        **changes,
    )


def next_mode(
    step: PipelineStep, *, may_offload: bool = False, switches: tuple[str, ...] = SWITCHES
) -> str | None:
    found = leaner(step, may_offload=may_offload, switches=switches)
    return None if found is None else difference(found, step)


def test_leaner_mode_tiles_and_slices_the_vae():
    lean = leaner(asked(), may_offload=False, switches=SWITCHES)
    assert lean == asked(vae_tiling=True, vae_slicing=True)


def test_leaner_mode_offloads_on_accelerator():
    lean = leaner(asked(), may_offload=True, switches=SWITCHES)
    assert lean == asked(offload="model", vae_tiling=True, vae_slicing=True)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_leaner_mode_keeps_existing_offload(offload: str):
    assert next_mode(asked(offload=offload), may_offload=True) == "VAE tiling and VAE slicing"


def test_leaner_mode_is_none_if_already_set():
    assert next_mode(asked(vae_tiling=True)) == "VAE slicing"
    assert next_mode(asked(vae_tiling=True, vae_slicing=True)) is None
    assert next_mode(asked(vae_tiling=True, vae_slicing=True), may_offload=True) == "model offload"


def test_leaner_mode_uses_only_supported_switches():
    assert next_mode(asked(), switches=("tiling",)) == "VAE tiling"
    assert next_mode(asked(), switches=()) is None


def test_leaner_mode_difference_is_readable():
    assert next_mode(asked(), may_offload=True) == "model offload, VAE tiling and VAE slicing"
