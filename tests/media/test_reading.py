"""Videos and sounds of files, as steps are given them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.errors import Cancelled, StepError
from app.media.files import SUFFIXES, MediaKind, WrongMediaError, suffix_of
from app.steps.media import read_sound, read_video
from tests.media.films import COLOURS, RATE, film, tone


def nothing() -> None:
    """A checkpoint at which nobody cancels."""


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_a_video_is_read_with_its_frames_rate_and_sound(tmp_path: Path, suffix: str):
    file = film(tmp_path / f"film{suffix}", fps=12, seconds_of_sound=0.5)
    assert suffix_of(file, "video") == suffix
    found = read_video(str(file), nothing)
    assert found.frames.shape == (4, 32, 32, 3)
    means = found.frames.reshape(4, -1, 3).mean(axis=1)
    assert np.allclose(means, COLOURS, atol=12)
    assert (found.fps, found.sample_rate) == (12.0, RATE)
    assert found.audio.shape[1] == 1
    assert 0.4 < np.abs(found.audio).max() < 0.6


def test_a_silent_video_has_no_sound(tmp_path: Path):
    found = read_video(str(film(tmp_path / "film.mp4")), nothing)
    assert (found.audio, found.sample_rate) == (None, None)


@pytest.mark.parametrize("suffix", SUFFIXES["audio"])
def test_a_sound_is_read_as_its_samples(tmp_path: Path, suffix: str):
    file = tone(tmp_path / f"tone{suffix}")
    assert suffix_of(file, "audio") == suffix
    found = read_sound(str(file), nothing)
    # Opus knows no other rate.
    assert found.sample_rate == (48_000 if suffix == ".ogg" else RATE)
    assert found.audio.dtype == np.float32
    assert abs(len(found.audio) / found.sample_rate - 0.5) < 0.2


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("video", "list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("video", "list.mkv", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        ("audio", "list.wav", b"#EXTM3U\nhttp://169.254.169.254/\n"),
        ("video", "text.avi", b"no video at all"),
        ("video", "empty.webm", b""),
        ("audio", "text.flac", b"no sound at all"),
        ("audio", "text.mp3", b"no sound at all"),
        ("audio", "text.mp4", b"no sound at all"),
    ],
)
def test_a_file_is_taken_for_nothing_but_what_its_name_says(
    tmp_path: Path, kind: MediaKind, name: str, content: bytes
):
    """FFmpeg by itself would follow what such a playlist names, to any file and address."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(WrongMediaError, match="cannot be read as a"):
        suffix_of(file, kind)
    with pytest.raises(StepError, match=r"cannot be read|has no samples"):
        (read_video if kind == "video" else read_sound)(str(file), nothing)


def test_the_sound_of_a_video_is_a_sound_and_a_silent_one_has_none(tmp_path: Path):
    file = film(tmp_path / "film.mp4", seconds_of_sound=0.5)
    assert suffix_of(file, "audio") == ".mp4"
    assert read_sound(str(file), nothing).sample_rate == RATE
    with pytest.raises(WrongMediaError):
        suffix_of(film(tmp_path / "silent.mp4"), "audio")


def test_a_picture_or_a_sound_is_no_video(tmp_path: Path):
    sound = tone(tmp_path / "tone.wav")
    with pytest.raises(WrongMediaError):
        suffix_of(sound.rename(tmp_path / "tone.mp4"), "video")


def test_reading_a_video_is_ended_by_a_cancel(tmp_path: Path):
    def cancelled() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        read_video(str(film(tmp_path / "film.mp4")), cancelled)
