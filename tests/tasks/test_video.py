"""Frames, concatenation, and pairing with audio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import StepError
from app.tasks.media import AudioVideo
from tests.tasks.calling import array, call, plain, wrong

RATE = 1000


def clip(*greys: int, size: tuple[int, int] = (8, 6)) -> list[Image.Image]:
    """Returns one plain frame for every shade."""
    return [plain(size, (grey, grey, grey)) for grey in greys]


def shades(video: Any) -> list[int]:
    frames = video.frames if isinstance(video, AudioVideo) else video
    return [int(np.asarray(frame).flat[0]) for frame in frames]


def sounding(*greys: int, level: float = 1.0) -> AudioVideo:
    """Returns a video at 10 frames per second, with audio of that level and the same length."""
    return AudioVideo(clip(*greys), np.full((len(greys) * 100, 1), level, np.float32), RATE)


@pytest.mark.parametrize(
    ("command", "arguments", "shade"),
    [
        ("get_frame", {}, 10),
        ("get_frame", {"frame_index": 1}, 20),
        ("get_frame", {"frame_index": -2}, 20),
        ("get_first_frame", {}, 10),
        ("get_last_frame", {}, 30),
    ],
)
def test_frame_index_counts_from_either_end(command: str, arguments: dict[str, Any], shade: int):
    for video in (clip(10, 20, 30), array_of(10, 20, 30), AudioVideo(clip(10, 20, 30), None, None)):
        frame = call(command, video=video, **arguments)
        assert isinstance(frame, Image.Image)
        assert array(frame)[0, 0].tolist() == [shade] * 3


def array_of(*greys: int) -> np.ndarray:
    """Returns frames as pipelines do with output_type np."""
    return np.stack([np.full((6, 8, 3), grey / 255, np.float32) for grey in greys])


def test_frame_outside_video_is_an_error_with_the_count():
    with pytest.raises(StepError, match="The video has 2 frames, and none has the index 2"):
        call("get_frame", video=clip(1, 2), frame_index=2)


def test_video_frames_are_one_uint8_array():
    made = call("video_frames", video=clip(10, 20))
    assert (made.shape, made.dtype) == ((2, 6, 8, 3), np.uint8)
    assert np.array_equal(made, call("video_frames", video=array_of(10, 20)))


@pytest.mark.parametrize("value", ["a.mp4", [], plain((4, 4)), [1], None, np.zeros((4, 4, 3))])
def test_non_video_argument_is_refused(value: object):
    (sentence,) = wrong("video_frames", video=value).values()
    assert sentence.startswith("A video is needed")


def test_pair_audio_adds_audio_with_its_rate():
    made = call("pair_audio", video=array_of(1, 2), audio=sounding(9, level=0.5))
    assert shades(made) == [0, 0]  # the array is unchanged, of 0..1
    assert made.frames.shape == (2, 6, 8, 3)
    assert (made.sample_rate, made.audio.shape, made.audio.max()) == (RATE, (100, 1), 0.5)
    again = call("pair_audio", video=made, audio=np.ones(50), sample_rate=2000)
    assert (again.sample_rate, again.audio.shape) == (2000, (50, 1))


def test_pair_audio_requires_audio_and_sample_rate():
    with pytest.raises(StepError, match="Set 'sample_rate'"):
        call("pair_audio", video=clip(1), audio=np.ones(50))
    assert wrong("pair_audio", video=clip(1), audio=AudioVideo(clip(1), None, None)) == {
        "audio": "A sound is needed: the video carries no sound."
    }


def test_concat_drops_trimmed_frames():
    videos = [clip(1, 2, 3), clip(4, 5, 6), array_of(7, 8)]
    assert shades(call("concat_videos", videos=videos)) == [1, 2, 3, 4, 5, 6, 7, 8]
    made = call("concat_videos", videos=videos, trim_frames=1)
    assert shades(made) == [1, 2, 3, 5, 6, 8]
    assert (made.audio, made.sample_rate) == (None, None)


def test_concat_keeps_audio_in_sync():
    videos = [sounding(1, 2, level=1.0), sounding(3, 4, 5, level=0.5)]
    made = call("concat_videos", videos=videos, trim_frames=1, fps=10, crossfade_ms=50)
    assert len(made.frames) == 4
    assert made.audio.shape == (400, 1)
    assert (made.audio[:150] == 1).all()
    assert (made.audio[200:] == 0.5).all()
    assert made.audio[150:200].min() > 0.4


def test_concat_crossfade_is_limited_to_trimmed_frames():
    videos = [sounding(1, 2, 3), sounding(4, 5, 6, level=0.0)]
    made = call("concat_videos", videos=videos, trim_frames=1, fps=10, crossfade_ms=5000)
    assert made.audio.shape == (500, 1)
    assert (made.audio[:200] == 1).all()
    assert not made.audio[300:].any()


def test_concat_pads_silent_video():
    made = call("concat_videos", videos=[clip(1, 2), sounding(3)], fps=10)
    assert made.audio.shape == (300, 1)
    assert not made.audio[:200].any()
    assert (made.audio[210:] == 1).all()


def test_concat_refuses_incompatible_videos():
    other_rate = AudioVideo(clip(1), np.ones(100), 2000)
    with pytest.raises(StepError, match=r"different sizes \(8x6, 4x4\)"):
        call("concat_videos", videos=[clip(1), clip(2, size=(4, 4))])
    with pytest.raises(StepError, match=r"different sample rates \(1000 Hz, 2000 Hz\)"):
        call("concat_videos", videos=[sounding(1), other_rate])
    with pytest.raises(StepError, match="no frames left after 2 are trimmed"):
        call("concat_videos", videos=[clip(1, 2, 3), clip(4, 5)], trim_frames=2)
    for videos, trim in (([sounding(1), clip(2)], 0), ([sounding(1), sounding(2, 3)], 1)):
        with pytest.raises(StepError, match="'fps' is needed"):
            call("concat_videos", videos=videos, trim_frames=trim)


def test_frames_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="the frames of a video must have the same size"):
        call("video_frames", video=[plain((4, 4)), plain((8, 8))])
