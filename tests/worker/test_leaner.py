"""Which mode a step that ran out of memory is run in next."""

from __future__ import annotations

from typing import Any

import pytest

from app.worker.leaner import SWITCHES, difference, leaner
from app.workflow.plan import PipelineStep
from app.workflow.plan_sources import ModelSource


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


def test_the_autoencoder_works_in_tiles_and_slices():
    lean = leaner(asked(), may_offload=False, switches=SWITCHES)
    assert lean == asked(vae_tiling=True, vae_slicing=True)


def test_on_an_accelerator_the_weights_wait_in_ram_as_well():
    lean = leaner(asked(), may_offload=True, switches=SWITCHES)
    assert lean == asked(offload="model", vae_tiling=True, vae_slicing=True)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offload_that_is_in_place_stays(offload: str):
    assert next_mode(asked(offload=offload), may_offload=True) == "VAE tiling and VAE slicing"


def test_what_the_step_has_already_is_no_leaner_mode():
    assert next_mode(asked(vae_tiling=True)) == "VAE slicing"
    assert next_mode(asked(vae_tiling=True, vae_slicing=True)) is None
    assert next_mode(asked(vae_tiling=True, vae_slicing=True), may_offload=True) == "model offload"


def test_an_autoencoder_is_asked_only_for_what_it_can():
    assert next_mode(asked(), switches=("tiling",)) == "VAE tiling"
    assert next_mode(asked(), switches=()) is None


def test_the_most_that_can_be_done_is_named_as_a_person_would():
    assert next_mode(asked(), may_offload=True) == "model offload, VAE tiling and VAE slicing"
