"""Audio, and videos with audio, written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from app.errors import ResultError
from app.media.audio_files import AUDIO_FILES
from app.tasks.media import AudioVideo
from tests.worker.results.files import RECORD, heard, loudest_hz, saved, tone


@pytest.mark.parametrize("content_type", ["audio/wav", "audio/x-wav", "audio/flac", "audio/x-flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_audio_has_every_sample(tmp_path: Path, content_type: str, channels: int):
    sound = tone(16_000, 5.0, channels)  # longer than one chunk
    read, rate = heard(saved(tmp_path, sound, content_type, sample_rate=16_000))
    assert (read.shape, rate) == (sound.shape, 16_000)
    assert np.abs(read - sound).max() < 1e-4


@pytest.mark.parametrize("content_type", ["audio/mp3", "audio/mpeg"])
@pytest.mark.parametrize(("rate", "written"), [(44_100, 44_100), (10_000, 48_000)])
def test_mp3_is_close_to_original(tmp_path: Path, content_type: str, rate: int, written: int):
    path = saved(tmp_path, tone(rate), content_type, sample_rate=rate)
    read, found = heard(path)
    assert found == written
    assert abs(len(read) / written - 1.0) < 0.1
    assert abs(loudest_hz(read, written) - 440) < 2
    assert np.abs(read[:, 1]).max() < 0.01


def test_audio_keeps_its_sample_rate(tmp_path: Path):
    _, rate = heard(saved(tmp_path, AudioVideo([], tone(22_050), 22_050), "audio/wav"))
    assert rate == 22_050
    assert heard(saved(tmp_path, tone(44_100), "audio/flac"))[1] == 44_100


def test_document_sample_rate_overrides_audio(tmp_path: Path):
    sound = AudioVideo([], tone(22_050), 22_050)
    assert heard(saved(tmp_path, sound, "audio/wav", sample_rate=8000))[1] == 8000
    film = AudioVideo(np.zeros((2, 16, 16, 3), np.uint8), tone(8000), 8000)
    assert heard(saved(tmp_path, film, "video/mp4", audio_sample_rate=16_000))[1] == 16_000


@pytest.mark.parametrize(
    ("content_type", "subtype"),
    [(kind, each) for kind in ("audio/wav", "audio/aiff", "audio/flac")
     for each in AUDIO_FILES[kind].codecs],
)  # fmt: skip
def test_audio_subtype_sets_sample_format(tmp_path: Path, content_type: str, subtype: str):
    sound = tone(16_000)
    read, rate = heard(saved(tmp_path, sound, content_type, subtype=subtype, sample_rate=16_000))
    assert (read.shape, rate) == (sound.shape, 16_000)
    coarse = {"PCM_U8": 2**-7, "PCM_S8": 2**-7, "ULAW": 2**-5, "ALAW": 2**-5, "PCM_16": 2**-15}
    assert np.abs(read - sound).max() <= coarse.get(subtype, 2**-23)


@pytest.mark.parametrize("content_type", ["audio/ogg", "audio/opus", "audio/vorbis"])
@pytest.mark.parametrize("channels", [1, 2])
def test_ogg_is_close_to_original(tmp_path: Path, content_type: str, channels: int):
    path = saved(tmp_path, tone(48_000, 2.0, channels), content_type, sample_rate=48_000)
    read, rate = heard(path)
    assert rate == 48_000
    assert abs(len(read) / rate - 2.0) < 0.1
    assert abs(loudest_hz(read, rate) - 440) < 2
    assert np.abs(read[rate // 2 : rate, 0]).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("content_type", ["audio/flac", "audio/mp3", "audio/opus", "audio/vorbis"])
def test_higher_compression_level_makes_smaller_file(tmp_path: Path, content_type: str):
    noise = 0.1 * np.random.default_rng(1).standard_normal((48_000, 2)).astype(np.float32)
    noise += tone(48_000)
    sizes = [
        saved(tmp_path, noise, content_type, sample_rate=48_000, compression_level=level)
        .stat().st_size
        for level in (0.0, 1.0)
    ]  # fmt: skip
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("content_type", ["audio/mp3", "audio/opus"])
def test_bitrate_mode_is_applied(tmp_path: Path, content_type: str, mode: str):
    noise = np.random.default_rng(1).standard_normal((192_000, 2))
    half_silent = (0.1 * noise).astype(np.float32)
    half_silent[96_000:] = 0
    path = saved(tmp_path, half_silent, content_type, sample_rate=48_000, bitrate_mode=mode)
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(audio=0) if packet.size]
    loud, silent = (sum(half) for half in (sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]))
    assert (abs(loud - silent) < 0.1 * loud) == (mode == "CONSTANT")


def test_audio_is_clipped_at_full_scale(tmp_path: Path):
    read, _ = heard(saved(tmp_path, 4 * tone(16_000), "audio/wav", sample_rate=16_000))
    assert read.max() == pytest.approx(1, abs=1e-3)
    assert read.min() == pytest.approx(-1, abs=1e-3)


def test_audio_file_contains_record(tmp_path: Path):
    with av.open(str(saved(tmp_path, tone(16_000), "audio/mp3"))) as container:
        assert json.loads(container.metadata["comment"]) == RECORD


@pytest.mark.parametrize("artifact", ["a text", np.zeros((4, 4, 4)), AudioVideo([], None, None)])
def test_non_audio_is_refused(tmp_path: Path, artifact: object):
    with pytest.raises(ResultError, match="cannot be saved as a sound"):
        saved(tmp_path, artifact, "audio/wav")
    assert list(tmp_path.iterdir()) == []


def test_more_than_two_channels_are_refused(tmp_path: Path):
    with pytest.raises(ResultError, match="5 channels"):
        saved(tmp_path, tone(8000, channels=5), "audio/flac")


@pytest.mark.parametrize(("rate", "written"), [(44_100, 44_100), (24_000, 24_000), (9_000, 48_000)])
def test_video_is_saved_with_its_audio(tmp_path: Path, rate: int, written: int):
    frames = np.random.default_rng(1).random((10, 16, 16, 3), np.float32)
    video = AudioVideo(frames, tone(rate), rate)
    path = saved(tmp_path, video, "video/mp4", fps=10)
    read, found = heard(path)
    assert found == written
    assert abs(len(read) / written - 1.0) < 0.1
    assert np.abs(read[written // 4 : written // 2, 0]).max() == pytest.approx(0.5, abs=0.05)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 10


def test_silent_video_has_no_audio_stream(tmp_path: Path):
    video = AudioVideo([np.zeros((16, 16, 3), np.uint8)] * 3, None, None)
    with av.open(str(saved(tmp_path, video, "video/mp4"))) as container:
        assert not container.streams.audio


def test_audio_encoding_is_deterministic(tmp_path: Path):
    for content_type in ("audio/wav", "audio/flac", "audio/mp3", "video/mp4"):
        video = AudioVideo([np.zeros((16, 16, 3), np.uint8)] * 3, tone(44_100), 44_100)
        one = saved(tmp_path, video, content_type).read_bytes()
        assert saved(tmp_path, video, content_type).read_bytes() == one
