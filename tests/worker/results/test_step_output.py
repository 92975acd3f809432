"""Artifacts in the results of pipelines and tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.tasks.media import AudioVideo
from app.worker.steps.step_output import CallOutput, Extras, StepOutput, artifacts_of

PICTURES = [Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4))]
FILMS = np.zeros((2, 5, 8, 8, 3), np.float32)
SOUNDS = torch.zeros(2, 2, 100)


def test_images_are_separate_artifacts():
    assert artifacts_of(CallOutput({"images": PICTURES, "nsfw_content_detected": None})) == PICTURES


def test_latents_are_separate_artifacts():
    found = artifacts_of(CallOutput({"images": torch.zeros(3, 4, 8, 8)}))
    assert [latents.shape for latents in found] == [(4, 8, 8)] * 3


@pytest.mark.parametrize("field", ["image_embeds", "image_embeddings"])
def test_embeddings_are_separate_artifacts(field: str):
    found = artifacts_of(CallOutput({"negative_image_embeds": torch.ones(2, 8), field: SOUNDS}))
    assert len(found) == 2


def test_first_known_field_has_the_artifacts():
    frames = [["a"], ["b"]]
    assert artifacts_of(CallOutput({"audios": SOUNDS, "frames": frames})) == frames
    assert artifacts_of(CallOutput({"frames": frames, "images": PICTURES})) == PICTURES


def test_video_is_paired_with_audio_of_its_index():
    sounds = SOUNDS + torch.arange(2)[:, None, None]
    fields = {"frames": FILMS, "audio": sounds, "audio_sample_rate": 24_000}
    found = artifacts_of(CallOutput(fields))
    assert [type(film) for film in found] == [AudioVideo, AudioVideo]
    assert [film.audio.shape for film in found] == [(100, 2), (100, 2)]
    assert [film.audio.max() for film in found] == [0, 1]
    assert {film.sample_rate for film in found} == {24_000}
    assert found[0].frames.shape == (5, 8, 8, 3)


@pytest.mark.parametrize(
    "changes",
    [{"audio_sample_rate": None}, {"audio": None}, {"audio": torch.zeros(2, 8, 10, 16)}],
    ids=["no rate", "no sound", "latents of a sound"],
)
def test_video_without_playable_audio_is_its_frames(changes: dict[str, Any]):
    fields = {"frames": FILMS, "audio": SOUNDS, "audio_sample_rate": 24_000, **changes}
    found = artifacts_of(CallOutput(fields))
    assert [film.shape for film in found] == [(5, 8, 8, 3)] * 2


def test_audio_is_normalised_to_samples_by_channels():
    assert [sound.shape for sound in artifacts_of(CallOutput({"audios": SOUNDS}))] == [(100, 2)] * 2


def test_predictions_are_artifacts():
    found = artifacts_of(CallOutput({"prediction": np.zeros((2, 8, 8, 1)), "uncertainty": None}))
    assert [depth.shape for depth in found] == [(8, 8, 1)] * 2


@pytest.mark.parametrize("rate", ["sampling_rate", "audio_sample_rate"])
def test_mapping_with_videos_gives_videos_and_extras(rate: str):
    found = artifacts_of({"videos": FILMS, "audio": SOUNDS, rate: 16_000, "latents": 1, "no": None})
    *films, rest = found
    assert [film.sample_rate for film in films] == [16_000, 16_000]
    assert rest == {"latents": 1}
    assert isinstance(rest, Extras)
    assert len(artifacts_of({"videos": FILMS})) == 2


@pytest.mark.parametrize("returned", ["a text", {"a": 1}, PICTURES[0], AudioVideo([], None, None)])
def test_other_values_are_one_artifact(returned: Any):
    assert artifacts_of(returned) == [returned]


def test_output_with_unknown_fields_is_one_artifact():
    output = CallOutput({"prompt_embeds": SOUNDS})
    assert artifacts_of(output) == [output]


def test_artifacts_of_all_calls_are_flattened():
    made = StepOutput([CallOutput({"images": PICTURES}), CallOutput({"images": PICTURES[:1]})])
    assert [len(together) for together in made.by_call] == [2, 1]
    assert made.artifacts == [*PICTURES, PICTURES[0]]
