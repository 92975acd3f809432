"""How a chain passes segments on and joins them, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from app.dialect.plan import Chain, PipelineStep
from app.dialect.plan_sources import ModelSource
from app.dialect.segments import FrameSnap
from app.errors import StepError
from app.tasks.audio import samples_lasting
from app.tasks.media import AudioVideo
from app.worker.steps.chain import _carried, _continued, _planned, _Video, _with_slice

FPS, RATE = 10.0, 1000
STEP = PipelineStep(
    name="film", place="steps[0]", seed=1, pipeline_class="diffusers.WanPipeline",
    source=ModelSource(model="m"), arguments={},
)  # fmt: skip


@dataclass
class ImageOf:
    image: Any
    kind: ClassVar[str] = "image"


@dataclass
class VideoOf:
    frames: Any
    fps: float | None = None
    audio: Any = None
    sample_rate: int | None = None
    kind: ClassVar[str] = "video"


@dataclass
class AudioOf:
    audio: torch.Tensor
    sample_rate: int | None = None
    kind: ClassVar[str] = "audio"


def segment(number: int, frames: int = 10, *, sound: bool = True) -> AudioVideo:
    """Returns frames that count from ten times `number`, and as many samples at that level."""
    counted = np.arange(frames)[:, None, None, None] + 10 * number
    pixels = np.broadcast_to(counted, (frames, 4, 4, 3)).astype(np.uint8)
    if not sound:
        return AudioVideo(pixels, None, None)
    loudness = np.full((samples_lasting(frames, FPS, RATE), 1), 0.1 * (number + 1), np.float32)
    return AudioVideo(pixels, loudness, RATE)


def joined(chain: Chain, *segments: AudioVideo) -> AudioVideo:
    film = _Video(chain, STEP, None, 0)  # type: ignore[arg-type]
    for each in segments:
        film.add(each)
    return film.finished()


def test_chain_trims_head_of_later_segments():
    chain = Chain(segments=3, trim_frames=2, fps=FPS)
    film = joined(chain, *(segment(number, sound=False) for number in range(3)))
    assert list(film.frames[:, 0, 0, 0]) == [*range(10), *range(12, 20), *range(22, 30)]
    assert film.audio is None


@pytest.mark.parametrize("crossfade_ms", [0, 50, 150, 5000])
def test_joined_audio_matches_frames_and_never_exceeds_its_parts(crossfade_ms: float):
    chain = Chain(segments=2, trim_frames=2, fps=FPS, crossfade_ms=crossfade_ms)
    film = joined(chain, segment(0), segment(1))
    assert film.audio is not None
    assert len(film.audio) == samples_lasting(18, FPS, RATE)
    window = min(round(crossfade_ms / 1000 * RATE), samples_lasting(2, FPS, RATE))
    assert (film.audio[: 1000 - max(window, 3)] == np.float32(0.1)).all()
    assert (film.audio[1003:] == np.float32(0.2)).all()
    # Equal power: at the middle, cos and sin of 45 degrees.
    if window > 20:
        middle = film.audio[1000 - window // 2, 0]
        assert middle == pytest.approx((0.1 + 0.2) * 2**-0.5, rel=0.05)


def test_join_without_crossfade_has_no_click():
    film = joined(Chain(segments=2, trim_frames=0, fps=FPS), segment(0), segment(1))
    assert film.audio is not None
    steps = np.abs(np.diff(film.audio[990:1010, 0]))
    assert steps.max() < 0.1
    assert abs(film.audio[1000, 0]) < 0.15


def test_short_segment_audio_is_padded_with_silence():
    short = segment(0)
    short = AudioVideo(short.frames, short.audio[:900], RATE)
    film = joined(Chain(segments=2, trim_frames=1, fps=FPS, crossfade_ms=10), short, segment(1))
    assert film.audio is not None
    assert len(film.audio) == samples_lasting(19, FPS, RATE)
    assert not film.audio[900:985].any()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (AudioVideo(segment(1).frames, segment(1).audio, 2000), "1000 Hz, 2000 Hz"),
        (segment(1, sound=False), "has no sound"),
        (AudioVideo(np.zeros((10, 4, 8, 3), np.uint8), segment(1).audio, RATE), "different sizes"),
        (segment(1, frames=2), "has 2 frames, of which 2 are trimmed"),
    ],
)
def test_incompatible_segments_are_refused(second: AudioVideo, message: str):
    with pytest.raises(StepError, match=message):
        joined(Chain(segments=2, trim_frames=2, fps=FPS), segment(0), second)


def test_trimming_audio_requires_fps():
    with pytest.raises(StepError, match="The frame rate of step 'film' is unknown"):
        joined(Chain(segments=2), segment(0), segment(1))


# --- what is handed on ---------------------------------------------------------------------------


def test_last_frame_is_passed_on_as_image():
    chain = Chain(segments=2)
    handed = _continued(None, _carried(segment(0), chain), chain)
    assert isinstance(handed, Image.Image)
    assert handed.getpixel((0, 0)) == (9, 9, 9)


def test_segment_end_is_passed_on_as_images():
    chain = Chain(segments=2, continuity="last_segment", carry_frames=3)
    handed = _continued(None, _carried(segment(0), chain), chain)
    assert [picture.getpixel((0, 0))[0] for picture in handed] == [7, 8, 9]


@pytest.mark.parametrize("before", [[], [Image.new("RGB", (1, 1))]])
def test_segment_is_not_passed_on_in_a_list_without_references(before: list[Any]):
    chain = Chain(segments=2, continuity="last_segment", segment_argument="references")
    with pytest.raises(StepError, match="'references' has no reference that tells"):
        _continued(before, _carried(segment(0), chain), chain)
    chain = Chain(segments=2)
    *same, picture = _continued(before, _carried(segment(0), chain), chain)
    assert same == before
    assert isinstance(picture, Image.Image)


@pytest.mark.parametrize("carry_audio", [True, False])
def test_reference_list_gets_one_more_of_its_family(carry_audio: bool):
    before = [ImageOf("subject")]
    chain = Chain(segments=2)
    *same, picture = _continued(before, _carried(segment(0), chain), chain)
    assert same == before
    assert isinstance(picture, ImageOf)
    chain = Chain(
        segments=2, continuity="last_segment", carry_frames=3, carry_audio=carry_audio, fps=FPS
    )
    *_, film = _continued(before, _carried(segment(0), chain), chain)
    assert isinstance(film, VideoOf)
    assert film.frames.shape == (3, 4, 4, 3)
    assert film.fps == FPS
    assert (film.sample_rate, film.audio is None) == (
        (RATE, False) if carry_audio else (None, True)
    )
    if carry_audio:
        assert film.audio.shape == (1, 300)


# --- as long as a sound --------------------------------------------------------------------------


def test_match_audio_makes_video_as_long_as_the_audio():
    given = AudioOf(torch.arange(2500, dtype=torch.float32)[None] / 2500, RATE)
    grid = FrameSnap(modulus=4, remainder=1)
    chain = Chain(segments=None, trim_frames=1, fps=FPS, frame_snap=grid)
    references = [ImageOf("subject"), given]
    plan, sound = _planned(chain, {"references": references, "num_frames": 13})
    assert sound is not None
    assert [tuple(each) for each in plan] == [(0, 13), (12, 13)]
    subject, heard = _with_slice(references, sound, plan[1], chain)
    assert subject is references[0]
    assert heard is not given
    np.testing.assert_array_equal(heard.audio[0, :1300].numpy(), given.audio[0, 1200:2500].numpy())
    assert given.audio.shape == (1, 2500)


@pytest.mark.parametrize("count", [0, 2])
def test_match_audio_requires_one_audio_reference(count: int):
    sounds = [AudioOf(torch.zeros(1, 100), RATE)] * count
    chain = Chain(segments=None, fps=FPS)
    with pytest.raises(StepError, match=f"There are {count} sounds among the references"):
        _planned(chain, {"references": sounds, "num_frames": 9})
