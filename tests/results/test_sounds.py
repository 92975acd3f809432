"""Sounds and videos with sound, written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from app.errors import ResultError
from app.results import RESULT_KINDS, SUFFIXES
from app.tasks.media import AudioVideo
from app.workflow.plan import ResultSpec

RECORD = {"seed": 7, "prompt": "ü"}


def tone(rate: int, seconds: float = 1.0, channels: int = 2) -> np.ndarray:
    """440 Hz at half of full scale, silent on all channels but the first."""
    sound = np.zeros((round(rate * seconds), channels), np.float32)
    sound[:, 0] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(sound)) / rate)
    return sound


def heard(path: Path) -> tuple[np.ndarray, int]:
    """The samples of the file (samples, channels) as -1..1, and its rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = av.AudioResampler("fltp", stream.layout, stream.rate)
        parts = [
            resampled.to_ndarray()
            for frame in container.decode(audio=0)
            for resampled in frames.resample(frame)
        ]
        return np.concatenate(parts, axis=1).T, stream.rate


def saved(folder: Path, artifact: Any, content_type: str, **spec: Any) -> Path:
    path = folder / f"made{SUFFIXES[content_type]}"
    RESULT_KINDS[content_type](
        artifact, path, RECORD, ResultSpec(content_type=content_type, **spec)
    )
    return path


@pytest.mark.parametrize("content_type", ["audio/wav", "audio/x-wav", "audio/flac", "audio/x-flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_lossless_file_has_every_sample(tmp_path: Path, content_type: str, channels: int):
    sound = tone(16_000, 5.0, channels)  # longer than what is written at once
    read, rate = heard(saved(tmp_path, sound, content_type, sample_rate=16_000))
    assert (read.shape, rate) == (sound.shape, 16_000)
    assert np.abs(read - sound).max() < 1e-4


@pytest.mark.parametrize("content_type", ["audio/mp3", "audio/mpeg"])
@pytest.mark.parametrize(("rate", "written"), [(44_100, 44_100), (10_000, 48_000)])
def test_an_mp3_sounds_as_it_did(tmp_path: Path, content_type: str, rate: int, written: int):
    path = saved(tmp_path, tone(rate), content_type, sample_rate=rate)
    read, found = heard(path)
    assert found == written
    assert abs(len(read) / written - 1.0) < 0.1
    loudest = np.abs(np.fft.rfft(read[:written, 0])).argmax()
    assert abs(loudest * written / min(written, len(read)) - 440) < 2
    assert np.abs(read[:, 1]).max() < 0.01


def test_a_sound_that_knows_its_rate_keeps_it(tmp_path: Path):
    _, rate = heard(saved(tmp_path, AudioVideo([], tone(22_050), 22_050), "audio/wav"))
    assert rate == 22_050
    assert heard(saved(tmp_path, tone(44_100), "audio/flac"))[1] == 44_100


def test_what_is_louder_than_full_scale_is_cut_off_there(tmp_path: Path):
    read, _ = heard(saved(tmp_path, 4 * tone(16_000), "audio/wav", sample_rate=16_000))
    assert read.max() == pytest.approx(1, abs=1e-3)
    assert read.min() == pytest.approx(-1, abs=1e-3)


def test_the_record_is_inside_the_file(tmp_path: Path):
    with av.open(str(saved(tmp_path, tone(16_000), "audio/mp3"))) as container:
        assert json.loads(container.metadata["comment"]) == RECORD


@pytest.mark.parametrize("artifact", ["a text", np.zeros((4, 4, 4)), AudioVideo([], None, None)])
def test_what_is_no_sound_is_refused(tmp_path: Path, artifact: object):
    with pytest.raises(ResultError, match="no sound that could be saved"):
        saved(tmp_path, artifact, "audio/wav")
    assert list(tmp_path.iterdir()) == []


def test_more_channels_than_two_are_refused(tmp_path: Path):
    with pytest.raises(ResultError, match="5 channels"):
        saved(tmp_path, tone(8000, channels=5), "audio/flac")


@pytest.mark.parametrize(("rate", "written"), [(44_100, 44_100), (24_000, 24_000), (9_000, 48_000)])
def test_a_video_is_saved_with_its_sound(tmp_path: Path, rate: int, written: int):
    frames = np.random.default_rng(1).random((10, 16, 16, 3), np.float32)
    video = AudioVideo(frames, tone(rate), rate)
    path = saved(tmp_path, video, "video/mp4", fps=10)
    read, found = heard(path)
    assert found == written
    assert abs(len(read) / written - 1.0) < 0.1
    assert np.abs(read[written // 4 : written // 2, 0]).max() == pytest.approx(0.5, abs=0.05)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 10


def test_a_silent_video_has_no_sound_stream(tmp_path: Path):
    video = AudioVideo([np.zeros((16, 16, 3), np.uint8)] * 3, None, None)
    with av.open(str(saved(tmp_path, video, "video/mp4"))) as container:
        assert not container.streams.audio


def test_the_same_sound_makes_the_same_bytes(tmp_path: Path):
    for content_type in ("audio/wav", "audio/flac", "audio/mp3", "video/mp4"):
        video = AudioVideo([np.zeros((16, 16, 3), np.uint8)] * 3, tone(44_100), 44_100)
        one = saved(tmp_path, video, content_type).read_bytes()
        assert saved(tmp_path, video, content_type).read_bytes() == one
