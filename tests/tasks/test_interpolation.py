"""Frames between the frames of a video."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from app.tasks.media import AudioVideo
from tests.tasks.calling import call, wrong
from tests.tasks.test_video import array_of, clip, shades

SIZE = (96, 128)
SQUARE = 24


def ground(seed: int = 0) -> np.ndarray:
    """Returns a background (height, width, 3) of soft grey spots."""
    coarse = np.random.default_rng(seed).integers(40, 110, (SIZE[0] // 8, SIZE[1] // 8, 1))
    return np.repeat(np.kron(coarse, np.ones((8, 8, 1))), 3, axis=2).astype(np.uint8)


def square_at(left: int, top: int = 36, seed: int = 0) -> np.ndarray:
    """Returns a frame with a bright spotted square on the background."""
    frame = ground(seed)
    spots = np.random.default_rng(1).integers(170, 256, (SQUARE // 4, SQUARE // 4))
    frame[top : top + SQUARE, left : left + SQUARE] = np.kron(spots, np.ones((4, 4)))[..., None]
    return frame


def difference(one: Any, other: Any) -> float:
    """Returns the mean absolute difference in levels of 0..255."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


def test_square_is_halfway_in_the_middle_frame():
    made = call("interpolate_frames", video=np.stack([square_at(40), square_at(52)]))
    assert made.frames.shape == (3, *SIZE, 3)
    middle, expected = made.frames[1], square_at(46)
    blended = square_at(40) / 2 + square_at(52) / 2
    assert difference(middle, expected) < 0.7 < difference(blended, expected) / 5
    assert middle[40:56, 48:68].min() > 150 > middle[40:56, :40].max()


def test_four_frames_for_one_are_evenly_spaced():
    video = [Image.fromarray(square_at(left)) for left in (40, 52)]
    made = call("interpolate_frames", video=video, multiplier=4)
    assert len(made.frames) == 5
    for number, left in enumerate((40, 43, 46, 49, 52)):
        assert difference(made.frames[number], square_at(left)) < 1.5


def test_own_frames_are_unchanged():
    video = np.stack([square_at(left) for left in (20, 28, 36)])
    for multiplier in (2, 4, 8):
        made = call("interpolate_frames", video=video, multiplier=multiplier)
        assert made.frames.dtype == np.uint8
        assert len(made.frames) == 2 * multiplier + 1
        assert np.array_equal(made.frames[::multiplier], video)


def test_moved_square_leaves_no_ghost_in_uncovered_background():
    # The background at the square's first place is hidden in the first frame, seen in the second.
    made = call("interpolate_frames", video=np.stack([square_at(40), square_at(52)]))
    for columns in (slice(40, 46), slice(70, 76)):
        uncovered = (slice(36, 60), columns)
        assert difference(made.frames[1][uncovered], ground()[uncovered]) < 20
        blended = square_at(40)[uncovered] / 2 + square_at(52)[uncovered] / 2
        assert difference(blended, ground()[uncovered]) > 60


def test_still_video_stays_still():
    made = call("interpolate_frames", video=np.stack([square_at(40)] * 2), multiplier=8)
    assert all(np.array_equal(frame, square_at(40)) for frame in made.frames)


def test_frames_repeat_at_a_cut():
    other = 255 - np.rot90(square_at(10, seed=5), 2)
    video = np.stack([square_at(40), square_at(44), other, other])
    made = call("interpolate_frames", video=video, multiplier=4).frames
    assert all(np.array_equal(frame, video[1]) for frame in made[4:8])
    assert np.array_equal(made[8], other)
    assert difference(made[2], square_at(42)) < 1.5
    assert shades(call("interpolate_frames", video=clip(10, 200))) == [10, 10, 200]


def test_slow_fade_is_no_cut():
    assert shades(call("interpolate_frames", video=clip(10, 20, 30), multiplier=2)) == [
        10, 15, 20, 25, 30,
    ]  # fmt: skip


def test_video_of_one_frame_stays_as_it_is():
    assert shades(call("interpolate_frames", video=array_of(10), multiplier=8)) == [10]


def test_audio_is_kept_and_frame_rate_multiplied():
    audio = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    made = call("interpolate_frames", video=AudioVideo(clip(1, 2), audio, 100, fps=12.5))
    assert (made.sample_rate, made.fps) == (100, 25)
    assert made.audio is audio


def test_video_without_frame_rate_has_the_usual_one():
    made = call("interpolate_frames", video=clip(1, 2), multiplier=4)
    assert (made.audio, made.sample_rate, made.fps) == (None, None, 32)


def test_multiplier_is_two_four_or_eight():
    (sentence,) = wrong("interpolate_frames", video=clip(1, 2), multiplier=3).values()
    assert "2, 4 or 8" in sentence
    assert wrong("interpolate_frames", video=clip(1, 2), multiplier=8, filename="a") == {}
