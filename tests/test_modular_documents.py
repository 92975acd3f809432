"""Third-party documents of modular pipelines, on tiny models of their classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from app.dialect.plan import Plan
from app.planning.planner import make_plan
from app.protocol import StepProgress
from app.settings import PathSettings
from tests.engines import Finished
from tests.standins import StandIns
from tests.standins.minimax_h3 import FRAMES
from tests.worker.bench import Bench

WIDTH, HEIGHT, STEPS = 64, 32, 3
FPS, SOUND_HZ = 24, 32_000
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def models(stand_ins: StandIns, real_workflows: Path) -> Path:
    stand_ins.add_named(json.loads((real_workflows / "MiniMaxH3.json").read_text()))
    return stand_ins.folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def planned(real_workflows: Path, models: Path, **inputs: Any) -> Plan:
    size = {"width": WIDTH, "height": HEIGHT, "num_inference_steps": STEPS}
    return make_plan(
        real_workflows / "MiniMaxH3.json",
        {"prompt": "a fox in the snow", **size, **inputs},
        paths=PathSettings(models=(models,)),
    )


def content(finished: Finished) -> list[bytes]:
    """Returns every frame of the video and all of its audio."""
    (result,) = finished.results
    with av.open(result.path) as film:
        return [frame.to_ndarray().tobytes() for frame in film.decode(video=0, audio=0)]


def test_modular_document_makes_video_with_audio_warm_and_cold(
    real_workflows: Path, models: Path, bench: Bench
):
    plan = planned(real_workflows, models)
    cold = bench.run(plan)
    # Text workflows need no transformer for references.
    names = {title.split()[0] for title in cold.success.loaded}
    assert names == {
        "text_encoder", "tokenizer", "processor", "vae", "audio_vae", "transformer",
        "scheduler", "audio_scheduler",
    }  # fmt: skip
    (result,) = cold.results
    with av.open(result.path) as film:
        video, sound = film.streams.video[0], film.streams.audio[0]
        assert (video.width, video.height, video.frames) == (WIDTH, HEIGHT, FRAMES)
        assert video.average_rate == FPS
        assert (sound.rate, sound.channels) == (SOUND_HZ, 2)
        assert abs(float(sound.duration * sound.time_base) - FRAMES / FPS) < 0.1
    warm = bench.run(plan)
    assert warm.success.loaded == ()
    assert content(warm) == content(cold)
    other = bench.run(planned(real_workflows, models, prompt="another"))
    assert other.success.loaded == ()
    assert content(other) != content(cold)


def test_modular_document_video_is_equal_after_free(
    real_workflows: Path, models: Path, bench: Bench
):
    plan = planned(real_workflows, models)
    before = bench.run(plan)
    bench.free()
    assert bench.runner.residency.entries == ()
    again = bench.run(plan)
    assert again.success.loaded
    assert content(again) == content(before)
    steps = [(e.done, e.total) for e in again.events if isinstance(e, StepProgress)]
    assert steps == [(1, STEPS - 1), (2, STEPS - 1)]
