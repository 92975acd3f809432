"""Reading video and audio files as arguments of steps."""

from __future__ import annotations

import contextlib
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from app.errors import Cancelled, StepError
from app.media.files import SUFFIXES, MediaKind, WrongMediaError, suffix_of
from app.settings import MediaLimits
from app.worker.steps.media import MediaReader
from tests.media.films import COLOURS, RATE, film, tone

LIMITS = MediaLimits()


def reader(**limits: int) -> MediaReader:
    """Returns a reader that is never cancelled."""
    return MediaReader(MediaLimits(**limits), lambda: None)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_video_is_read_with_frame_rate_and_audio(tmp_path: Path, suffix: str):
    file = film(tmp_path / f"film{suffix}", fps=12, seconds_of_sound=0.5)
    assert suffix_of(file, "video", LIMITS) == suffix
    found = reader().video(str(file))
    assert found.frames.shape == (4, 32, 32, 3)
    means = found.frames.reshape(4, -1, 3).mean(axis=1)
    assert np.allclose(means, COLOURS, atol=12)
    assert (found.fps, found.sample_rate) == (12.0, RATE)
    assert found.audio.shape[1] == 1
    assert 0.4 < np.abs(found.audio).max() < 0.6


def test_silent_video_has_no_audio(tmp_path: Path):
    found = reader().video(str(film(tmp_path / "film.mp4")))
    assert (found.audio, found.sample_rate) == (None, None)


@pytest.mark.parametrize("suffix", SUFFIXES["audio"])
def test_audio_is_read_as_samples(tmp_path: Path, suffix: str):
    file = tone(tmp_path / f"tone{suffix}")
    assert suffix_of(file, "audio", LIMITS) == suffix
    found = reader().audio(str(file))
    # Opus has no other rate.
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
def test_file_is_read_only_as_its_suffix_says(
    tmp_path: Path, kind: MediaKind, name: str, content: bytes
):
    """FFmpeg by itself would follow a playlist to any file and URL."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(WrongMediaError, match="cannot be read as a"):
        suffix_of(file, kind, LIMITS)
    with pytest.raises(StepError, match=r"cannot be read|has no samples"):
        (reader().video if kind == "video" else reader().audio)(str(file))


def test_video_is_accepted_as_audio_unless_silent(tmp_path: Path):
    file = film(tmp_path / "film.mp4", seconds_of_sound=0.5)
    assert suffix_of(file, "audio", LIMITS) == ".mp4"
    assert reader().audio(str(file)).sample_rate == RATE
    with pytest.raises(WrongMediaError):
        suffix_of(film(tmp_path / "silent.mp4"), "audio", LIMITS)


def test_image_or_audio_is_refused_as_video(tmp_path: Path):
    sound = tone(tmp_path / "tone.wav")
    with pytest.raises(WrongMediaError):
        suffix_of(sound.rename(tmp_path / "tone.mp4"), "video", LIMITS)


def test_reading_a_video_can_be_cancelled(tmp_path: Path):
    def cancelled() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        MediaReader(LIMITS, cancelled).video(str(film(tmp_path / "film.mp4")))


# --- how much a file may become ------------------------------------------------------------------


def refused(file: Path, kind: MediaKind, **limits: int) -> tuple[str, str]:
    """Returns the messages about the file while planning and while reading."""
    with pytest.raises(WrongMediaError) as looked:
        suffix_of(file, kind, MediaLimits(**limits))
    with pytest.raises(StepError) as read:
        getattr(reader(**limits), kind)(str(file))
    return str(looked.value), read.value.message


def test_image_with_too_many_pixels_is_refused_by_server_and_worker(tmp_path: Path):
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 32)).save(file)
    enough = MediaLimits(max_picture_pixels=64 * 32)
    assert suffix_of(file, "image", enough) == ".png"
    assert MediaReader(enough, lambda: None).image(str(file)).size == (64, 32)
    for said in refused(file, "image", max_picture_pixels=64 * 32 - 1):
        assert "'a.png' has 64x32 pixels; " in said


def test_video_with_too_large_frames_is_refused_before_decoding(tmp_path: Path):
    file = film(tmp_path / "film.mp4", side=64)
    assert suffix_of(file, "video", MediaLimits(max_picture_pixels=64 * 64)) == ".mp4"
    for said in refused(file, "video", max_picture_pixels=64 * 64 - 1):
        assert said.startswith("'film.mp4' has 64x64 pixels; ")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_too_long_video_is_refused_by_its_header(tmp_path: Path, suffix: str):
    file = film(tmp_path / f"film{suffix}")
    assert suffix_of(file, "video", MediaLimits(max_decoded_bytes=4 * 32 * 32 * 3)) == suffix
    for said in refused(file, "video", max_decoded_bytes=4 * 32 * 32 * 3 - 1):
        assert said.startswith(f"'film{suffix}' holds 4 frames of 32x32: 12 kB when it is decoded;")


def test_too_long_audio_is_refused_by_its_header(tmp_path: Path):
    file = tone(tmp_path / "tone.wav", seconds=2)
    assert suffix_of(file, "audio", MediaLimits(max_decoded_bytes=4 * 2 * RATE)) == ".wav"
    for said in refused(file, "audio", max_decoded_bytes=4 * 2 * RATE - 1):
        assert said.startswith("'tone.wav' holds a sound of 2 s: 64 kB when it is decoded;")


def test_decoded_files_of_one_step_have_a_total_limit(tmp_path: Path):
    file = str(film(tmp_path / "film.mp4"))
    both = reader(max_decoded_bytes=2 * 4 * 32 * 32 * 3 - 1)
    assert len(both.video(file).frames) == 4
    with pytest.raises(StepError, match="the files of this step are more than 25 kB"):
        both.video(file)


def test_frames_that_grow_beyond_the_header_are_not_decoded(tmp_path: Path):
    """Each frame of motion JPEG has its own size, as may those of other codecs."""
    file = tmp_path / "film.avi"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        for side in (16, 128):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width = encoder.height = side
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 8)
            frame = av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8))
            for packet in encoder.encode(frame.reformat(format="yuvj420p")):
                packet.stream = stream
                packet.pts = packet.dts = 0 if side == 16 else 1
                container.mux(packet)
    with pytest.raises(StepError, match="cannot be read"):
        reader(max_picture_pixels=128 * 128 - 1).video(str(file))
    with pytest.raises(StepError, match="have several sizes"):
        reader(max_picture_pixels=128 * 128).video(str(file))


# --- broken files --------------------------------------------------------------------------------


def test_title_in_another_encoding_is_accepted(tmp_path: Path):
    file = tmp_path / "film.mkv"
    with av.open(str(file), "w") as made:
        made.metadata["title"] = "Zuschauer"
        stream = made.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for _ in range(4):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        made.mux(stream.encode())
    content = file.read_bytes()
    assert content.count(b"Zuschauer") == 1
    file.write_bytes(content.replace(b"Zuschauer", "Zuschäuer".encode("latin-1")))
    assert suffix_of(file, "video", LIMITS) == ".mkv"
    assert len(reader().video(str(file)).frames) == 4


def test_audio_with_many_channels_is_refused(tmp_path: Path):
    """PyAV would read planes that do not exist, and the process would crash."""
    file = tone(tmp_path / "tone.wav")
    content = bytearray(file.read_bytes())
    at = content.index(b"fmt ") + 10
    assert content[at : at + 2] == b"\x01\x00"
    content[at] = 13
    content[at + 10 : at + 12] = (26).to_bytes(2, "little")
    file.write_bytes(content)
    for said in refused(file, "audio"):
        assert said == "'tone.wav' holds a sound of 13 channels; 8 are the most."


def test_broken_content_is_always_refused_in_a_sentence(tmp_path: Path):
    """300 files with a few bytes changed: no exception of FFmpeg or NumPy gets through."""
    whole = [film(tmp_path / f"film{suffix}", seconds_of_sound=0.1) for suffix in (".mp4", ".mkv")]
    whole += [tone(tmp_path / f"tone{suffix}", 0.1) for suffix in (".wav", ".mp3", ".flac", ".ogg")]
    chance, limits = random.Random(3), {"max_decoded_bytes": 10_000_000}
    for _ in range(300):
        original = chance.choice(whole)
        content = bytearray(original.read_bytes())
        for _ in range(chance.choice([1, 4, 16])):
            reach = chance.choice([200, 2000, len(content)])
            content[chance.randrange(min(reach, len(content)))] = chance.randrange(256)
        file = tmp_path / f"broken{original.suffix}"
        file.write_bytes(content)
        with contextlib.suppress(WrongMediaError):
            suffix_of(file, "audio", MediaLimits(**limits))
        with contextlib.suppress(StepError):
            reader(**limits).audio(str(file))
        if original.stem == "film":
            with contextlib.suppress(WrongMediaError):
                suffix_of(file, "video", MediaLimits(**limits))
            with contextlib.suppress(StepError):
                reader(**limits).video(str(file))
