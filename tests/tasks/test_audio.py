"""Sliced and crossfaded audio."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import StepError
from app.tasks.media import AudioVideo, as_audio
from app.tasks.task import UNKNOWN
from tests.tasks.calling import call, wrong

RATE = 1000
HALF_SECOND = {"start_seconds": 0.5, "duration_seconds": 0.5}


def counting(length: int = 1000) -> np.ndarray:
    """Returns mono audio whose samples tell their positions."""
    return np.arange(length, dtype=np.float32)[:, None] / length


def test_slice_by_time_has_its_samples():
    made = call("slice_audio", audio=counting(), sample_rate=RATE, **HALF_SECOND)
    assert made.dtype == np.float32
    assert np.array_equal(made, counting()[500:])


def test_slice_by_frames_has_their_length():
    cut = {"start_frame": 5, "num_frames": 10, "fps": 25}
    made = call("slice_audio", audio=counting(), sample_rate=RATE, **cut)
    assert np.array_equal(made, counting()[200:600])


def test_slice_beyond_the_end_is_silent():
    made = call(
        "slice_audio", audio=counting(), sample_rate=RATE, start_seconds=0.9, duration_seconds=1
    )
    assert made.shape == (1000, 1)
    assert np.array_equal(made[:100], counting()[900:])
    assert not made[100:].any()
    late = call(
        "slice_audio", audio=counting(), sample_rate=RATE, start_seconds=5, duration_seconds=0.1
    )
    assert late.tolist() == [[0.0]] * 100


def test_slice_of_video_uses_its_sample_rate():
    video = AudioVideo([], counting(), RATE)
    assert np.array_equal(call("slice_audio", audio=video, **HALF_SECOND), counting()[500:])


def test_slice_requires_time_or_frames():
    either = (
        "Either start_seconds and duration_seconds, or start_frame, num_frames and fps are needed."
    )
    bare = "The sound has no sample rate; give sample_rate."
    assert wrong("slice_audio", audio=counting(), sample_rate=RATE) == {"": either}
    assert wrong("slice_audio", audio=UNKNOWN, **HALF_SECOND, fps=25) == {"": either}
    assert wrong("slice_audio", audio=UNKNOWN, **HALF_SECOND) == {}
    assert wrong("slice_audio", audio=counting(), **HALF_SECOND) == {"": bare}


@pytest.mark.parametrize("name", ["song.wav", "previous"])
def test_slice_refuses_a_file_name(name: str):
    assert wrong("slice_audio", audio=name, sample_rate=RATE, **HALF_SECOND) == {
        "audio": "A sound is needed: a text is not a sound."
    }


def test_crossfade_shortens_by_window_with_equal_power():
    ones = np.ones((500, 1), np.float32)
    audios = [ones, np.zeros_like(ones), ones]
    made = call("crossfade_audio", audios=audios, crossfade_ms=100, sample_rate=RATE)
    assert made.shape == (1300, 1)
    assert (made[:400] == 1).all()
    fading_out, fading_in = made[400:500, 0], made[800:900, 0]
    assert (np.diff(fading_out) < 0).all()
    assert np.allclose(fading_out**2 + fading_in**2, 1, atol=1e-6)


def test_join_without_crossfade_fades_seam_and_keeps_length():
    ones = np.ones((500, 2), np.float32)
    made = call("crossfade_audio", audios=[ones, ones], crossfade_ms=0, sample_rate=RATE)
    assert made.shape == (1000, 2)
    assert (made[:497] == 1).all()
    assert (made[503:] == 1).all()
    assert made[499:501].max() < 0.3


def test_crossfade_window_is_limited_by_audio_length():
    ones = np.ones((20, 1), np.float32)
    made = call("crossfade_audio", audios=[ones, ones], crossfade_ms=75, sample_rate=RATE)
    assert made.shape == (20, 1)


def test_mono_audio_is_repeated_to_stereo():
    left_and_right = np.tile(np.float32([[0.5, -0.5]]), (100, 1))
    made = call(
        "crossfade_audio", audios=[counting(100), left_and_right], crossfade_ms=0, sample_rate=RATE
    )
    assert made.shape == (200, 2)
    assert np.array_equal(made[:90, 0], made[:90, 1])
    with pytest.raises(StepError, match="different numbers of channels"):
        call(
            "crossfade_audio",
            audios=[left_and_right, np.ones((100, 3), np.float32)],
            sample_rate=RATE,
        )


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (np.zeros(8), (8, 1)),
        (np.zeros((2, 8)), (8, 2)),
        (np.zeros((8, 2)), (8, 2)),
        (np.zeros((1, 2, 8)), (8, 2)),
    ],
)
def test_audio_axes_may_be_in_either_order(given: np.ndarray, shape: tuple[int, int]):
    assert as_audio(given).shape == shape


def test_integer_samples_are_normalised():
    assert as_audio(np.int16([-32768, 0, 16384])).ravel().tolist() == [-1.0, 0.0, 0.5]
