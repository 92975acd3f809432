"""Objects of diffusers' data classes in the calls of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.modular_pipelines.minimax_h3 import (
    MiniMaxH3AudioReference,
    MiniMaxH3ImageReference,
    MiniMaxH3VideoReference,
)
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from PIL import Image

from app.errors import StepError
from app.tasks.media import AudioVideo
from app.worker.context import RunContext, Signals
from app.worker.device import Device
from app.worker.steps.arguments import combinations
from app.worker.steps.media import resample_references
from app.worker.steps.step_output import StepOutput
from tests.media.films import RATE, film, tone
from tests.worker.bench import Bench, document, step


def given(bench: Bench, value: Any, **results: list[Any]) -> list[Any]:
    """Returns the argument of each call for this value, after these results."""
    earlier = [step(name) for name in results]
    plan = bench.plan(document(*earlier, step("last", cross_attention_kwargs={"x": value})))
    context = RunContext(
        "20260101-000000-000000", plan, Device("cpu"), lambda _: None, Signals(), 1.0,
        bench.runner.prompts, bench.runner.preview_maps, bench.runner.loras,
    )  # fmt: skip
    context.results.update({name: StepOutput(found) for name, found in results.items()})
    calls = combinations("last", plan.steps[-1].arguments, context, bare=True)
    return [call["cross_attention_kwargs"]["x"] for call in calls]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def of(name: str, **how: Any) -> dict[str, Any]:
    return {"reference_type": name, **how}


def test_references_are_built_from_files(bench: Bench):
    Image.new("RGB", (8, 8), "red").save(bench.folder / "a.png")
    film(bench.folder / "a.mp4", fps=12, seconds_of_sound=0.5)
    tone(bench.folder / "a.wav")
    for kind, theirs in (
        ("a.png", MiniMaxH3ImageReference),
        ("a.mp4", MiniMaxH3VideoReference),
        ("a.wav", MiniMaxH3AudioReference),
    ):
        (ours,) = given(bench, of(theirs.__name__, from_file=kind))
        wanted = theirs.from_file(bench.folder / kind)
        assert type(ours) is theirs
        assert vars(ours).keys() == vars(wanted).keys()
        for name, value in vars(wanted).items():
            assert np.array_equal(np.asarray(getattr(ours, name)), np.asarray(value)), name


def test_reference_arguments_override_media(bench: Bench):
    film(bench.folder / "a.mp4", fps=12)
    (ours,) = given(bench, of("MiniMaxH3VideoReference", from_file="a.mp4", fps=30))
    assert (ours.fps, ours.audio) == (30, None)


def test_objects_of_several_results_make_several_calls(bench: Bench):
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    found = given(bench, of("MiniMaxH3ImageReference", from_previous_result="a"), a=pictures)
    assert [each.image.getpixel((0, 0)) for each in found] == [(255, 0, 0), (0, 0, 255)]


def test_video_audio_is_passed_to_references_only(bench: Bench):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    made = [AudioVideo(frames, np.zeros((400, 1), np.float32), RATE, 12.0)]
    (ours,) = given(bench, of("MiniMaxH3VideoReference", from_previous_result="a"), a=made)
    assert (ours.fps, ours.sample_rate, tuple(ours.audio.shape)) == (12.0, RATE, (1, 400))
    assert isinstance(ours.audio, torch.Tensor)
    (plain,) = given(bench, "previous_result:a", a=made)
    assert [type(frame) for frame in plain] == [Image.Image] * 2
    (sound,) = given(bench, of("MiniMaxH3AudioReference", from_previous_result="a"), a=made)
    assert tuple(sound.audio.shape) == (1, 400)


def test_conditions_are_built_from_files_and_numbers(bench: Bench):
    Image.new("RGB", (8, 8), "red").save(bench.folder / "a.png")
    frames = {"media_type": "image", "location": "a.png"}
    condition = of("LTX2VideoCondition", from_arguments={"frames": frames, "index": -1})
    ((made,),) = given(bench, [condition])
    assert isinstance(made, LTX2VideoCondition)
    assert (made.frames.size, made.index, made.strength) == ((8, 8), -1, 1.0)


def test_invalid_object_arguments_are_reported(bench: Bench):
    with pytest.raises(
        StepError, match="A MiniMaxH3VideoReference cannot be created: a text is not"
    ):
        given(bench, of("MiniMaxH3VideoReference", from_previous_result="a"), a=["a text"])


@pytest.mark.parametrize("channels", [1, 2])
def test_reference_audio_is_resampled_to_the_model_rate(channels: int):
    """The library would need torchaudio."""
    tone = torch.sin(torch.arange(RATE) * 2 * torch.pi * 400 / RATE).expand(channels, -1)
    given = MiniMaxH3AudioReference(audio=tone, sample_rate=RATE)
    untouched = MiniMaxH3ImageReference(image=Image.new("RGB", (8, 8)))
    heard, other = resample_references({"references": [given, untouched]}, 32_000)["references"]
    assert (heard.sample_rate, given.sample_rate, other) == (32_000, RATE, untouched)
    assert heard.audio.shape[0] == channels
    assert abs(heard.audio.shape[1] - 32_000) < 100
    spectrum = np.abs(np.fft.rfft(heard.audio[0].numpy()))
    assert abs(np.argmax(spectrum) * 32_000 / heard.audio.shape[1] - 400) < 2
    assert 0.9 < heard.audio.abs().max() < 1.1
    assert resample_references({"references": [given]}, None)["references"] == [given]
    assert resample_references({"prompt": "a"}, 32_000) == {"prompt": "a"}
