"""Components and pipelines reused from an earlier step, and releases after a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.protocol import PinComponent
from tests.standins import build_sd
from tests.worker.bench import Bench, Document, document, pixels, same, step

PLAIN = document(step(), id="plain")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights. Read-only."""
    folder = tmp_path_factory.mktemp("models") / "other"
    build_sd(folder, seed=1)
    return folder


def titles(bench: Bench) -> set[str]:
    return {entry.title.partition(" of ")[0] for entry in bench.runner.residency.entries}


def reusing(first: Path, second: Path, *names: str) -> Document:
    return document(
        step("first", first, blocks={"shared_components": list(names)}, height=64, width=64),
        step("second", second, blocks={"reused_components": list(names)}, height=64, width=64),
        id="reusing",
    )


def test_reused_component_comes_from_the_other_step(bench: Bench, tiny: Path, other: Path):
    ran = bench.run(reusing(tiny, other, "unet", "vae"))
    own = bench.run(document(step("first", tiny), step("second", other), id="own"))
    assert not any(
        "unet of other" in title or "vae of other" in title for title in ran.success.loaded
    )
    assert any("unet of other" in title for title in own.success.loaded)
    first, second = pixels(ran)
    assert not np.array_equal(second, pixels(own)[1])
    assert np.array_equal(first, pixels(own)[0])


def test_reusing_all_components_ignores_own_model(bench: Bench, tiny: Path, other: Path):
    names = ("unet", "vae", "text_encoder", "safety_checker")
    first, second = pixels(bench.run(reusing(tiny, other, *names)))
    assert np.array_equal(first, second)


def test_reused_component_is_equal_warm_and_cold(bench: Bench, tiny: Path, other: Path):
    wanted = reusing(tiny, other, "unet")
    cold = bench.run(wanted)
    bench.run(bench.write(document(step("second", other), id="own"), "own"))
    warm = bench.run(wanted)
    assert warm.success.loaded == ()
    assert same(cold, warm)


def test_reused_component_changes_the_result_key(bench: Bench, tiny: Path, other: Path):
    own = bench.run(document(step("first", tiny), step("second", other), id="own"), fresh=False)
    reused = bench.run(reusing(tiny, other, "unet"), fresh=False)
    assert not np.array_equal(pixels(own)[1], pixels(reused)[1])
    assert same(reused, bench.run(reusing(tiny, other, "unet"), fresh=False))


def test_reused_component_unknown_to_pipeline_is_reported(bench: Bench, tiny: Path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    sizes: Any = {"sample_size": 8, "block_out_channels": (8,), "norm_num_groups": 4}
    unet = UNet2DModel(**sizes, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(bench.folder / "noise")
    second = step("second", "noise", blocks={"reused_components": ["vae"]})
    second["pipeline"]["configuration"]["component_type"] = "DDPMPipeline"
    second["pipeline"]["arguments"] = {"num_inference_steps": 1}
    first = step("first", tiny, blocks={"shared_components": ["vae"]})
    ended = bench.run(document(first, second)).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == "DDPMPipeline takes no 'vae', which steps[1].pipeline reuses."


# --- a pipeline called again ---------------------------------------------------------------------


def test_reused_pipeline_draws_like_a_separate_step(bench: Bench):
    again = {"prompt": "a blue square", "num_inference_steps": 2}
    reference = {
        "name": "again",
        "pipeline_reference": {"reference_name": "draw", "arguments": again},
        "result": {"content_type": "image/png"},
    }
    ran = bench.run(document(step(), reference, id="referring"))
    expected = bench.run(document(step(), step("again", **again), id="twice"))
    assert same(ran, expected)
    assert not np.array_equal(*pixels(ran))


# --- release -------------------------------------------------------------------------------------


def test_released_pipeline_is_dropped_after_its_step(bench: Bench):
    before = bench.run(PLAIN)
    ran = bench.run(document(step() | {"release_pipeline": True}, id="releasing"))
    assert titles(bench) == set()
    eviction = bench.runner.residency.last_eviction
    assert eviction is not None
    assert eviction.reason == "step 'draw' releases it"
    after = bench.run(PLAIN)
    assert after.success.loaded
    assert same(before, ran)
    assert same(before, after)


def test_released_components_needed_later_stay(bench: Bench, tiny: Path, other: Path):
    wanted = reusing(tiny, other, "unet")
    wanted["steps"][0]["release_pipeline"] = True
    ran = bench.run(wanted)
    held = {entry.title.partition(" (")[0] for entry in bench.runner.residency.entries}
    assert {"unet of tiny", "vae of other"} <= held
    assert "vae of tiny" not in held
    assert same(ran, Bench(bench.folder).run(reusing(tiny, other, "unet")))


def test_released_pinned_components_stay(bench: Bench):
    bench.run(PLAIN)
    (vae,) = (e.key for e in bench.runner.residency.entries if e.title.startswith("vae"))
    bench.runner.pin(PinComponent(request_id="pin", key=vae, pinned=True))
    bench.run(document(step() | {"release_pipeline": True}, id="releasing"))
    assert titles(bench) == {"vae"}
