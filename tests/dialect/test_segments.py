"""Number, length and position of a video's segments."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.segments import (
    MAX_SEGMENTS,
    FrameSnap,
    Segment,
    crossfade_window,
    frames_lasting,
    segments_to_cover,
)

EIGHTS = FrameSnap(modulus=8, remainder=1, min_frames=9, max_frames=121)


@pytest.mark.parametrize(
    ("wanted", "snapped"), [(1, 9), (9, 9), (10, 17), (120, 121), (121, 121), (122, None)]
)
def test_frame_count_snaps_up_to_model_grid(wanted: int, snapped: int | None):
    assert EIGHTS.up(wanted) == snapped


@given(st.integers(1, 16), st.integers(0, 15), st.integers(1, 50), st.integers(1, 500))
def test_snapped_frame_count_is_least_sufficient(
    modulus: int, remainder: int, least: int, wanted: int
):
    snap = FrameSnap(modulus=modulus, remainder=remainder % modulus, min_frames=least)
    found = snap.up(wanted)
    assert found is not None
    assert snap.fits(found)
    assert found >= wanted
    assert not any(snap.fits(fewer) for fewer in range(max(wanted, 1), found))


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (5, [(0, 9)]),
        (9, [(0, 9)]),
        (17, [(0, 17)]),
        (30, [(0, 17), (15, 17)]),
        (45, [(0, 17), (15, 17), (30, 17)]),
        (32, [(0, 17), (15, 17)]),
        (33, [(0, 17), (15, 17), (30, 9)]),
    ],
)
def test_last_segment_is_shortest_possible(total: int, expected: list[tuple[int, int]]):
    assert segments_to_cover(
        total, 17, 2, FrameSnap(modulus=8, remainder=1, min_frames=9, max_frames=17)
    ) == [Segment(*each) for each in expected]


@given(st.integers(1, 3000), st.integers(1, 130), st.integers(0, 20), st.integers(1, 8))
def test_segments_cover_video_without_gap(total: int, frames: int, trim: int, modulus: int):
    frames += trim + modulus + 3
    snap = FrameSnap(modulus=modulus, remainder=frames % modulus)
    segments = segments_to_cover(total, frames, trim, snap)
    assert segments[0].start == 0
    for before, after in pairwise(segments):
        assert before.frames == frames
        assert after.start + trim == before.start + before.frames < total
    assert segments[-1].start + segments[-1].frames >= total
    assert all(1 <= each.frames <= frames for each in segments)


def test_endless_segments_are_refused():
    with pytest.raises(ValueError, match="none left of which 9 are trimmed"):
        segments_to_cover(100, 9, 9)
    with pytest.raises(ValueError, match=f"more than {MAX_SEGMENTS} segments"):
        segments_to_cover(2000, 2, 1)


def test_audio_length_in_frames():
    assert frames_lasting(48_000, 24_000, 24.0) == 48
    assert frames_lasting(1, 24_000, 24.0) == 1


@given(st.floats(0, 1000), st.integers(1000, 96_000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_crossfade_is_limited_by_segments(
    crossfade_ms: float, rate: int, trimmed: int, before: int
):
    window = crossfade_window(crossfade_ms, rate, trimmed, before)
    assert 0 <= window <= min(trimmed, before)
    assert window <= round(crossfade_ms / 1000 * rate)
