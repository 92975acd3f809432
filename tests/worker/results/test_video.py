"""Videos and animated images of every format, written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.errors import ResultError
from app.tasks.media import AudioVideo
from app.worker.results.video import VIDEO_FILES
from tests.worker.results.files import loudest_hz, saved, seen, tone


def film(count: int = 12) -> np.ndarray:
    """Returns frames from black to white."""
    shades = np.linspace(0, 1, count, dtype=np.float32)[:, None, None, None]
    return np.broadcast_to(shades, (count, 32, 48, 3))


@pytest.mark.parametrize("content_type", VIDEO_FILES)
def test_video_formats_keep_frames_fps_and_audio(tmp_path: Path, content_type: str):
    video = AudioVideo(film(), tone(32_000), 32_000)
    found = seen(saved(tmp_path, video, content_type, fps=12))
    assert found.frames.shape == (12, 32, 48, 3)
    assert found.fps == 12
    brightness = found.frames.mean(axis=(1, 2, 3))
    assert np.abs(brightness - np.linspace(0, 255, 12)).max() < 12
    assert found.sound is not None
    assert found.rate is not None
    assert abs(len(found.sound) / found.rate - 1.0) < 0.15
    assert abs(loudest_hz(found.sound, found.rate) - 440) < 2


def test_fps_may_be_fractional(tmp_path: Path):
    assert seen(saved(tmp_path, film(3), "video/mp4", fps=23.976)).fps == 23.976


def test_default_fps_is_eight(tmp_path: Path):
    assert seen(saved(tmp_path, film(3), "video/mp4")).fps == 8


def test_video_keeps_fps_of_its_file(tmp_path: Path):
    video = AudioVideo(film(3), None, None, fps=12)
    assert seen(saved(tmp_path, video, "video/mp4")).fps == 12
    assert seen(saved(tmp_path, video, "video/mp4", fps=24)).fps == 24


def test_tensor_channels_come_second(tmp_path: Path):
    frames = torch.from_numpy(film(3).copy()).permute(0, 3, 1, 2)
    assert seen(saved(tmp_path, frames, "video/mp4")).frames.shape == (3, 32, 48, 3)


def test_gif_duration_follows_fps(tmp_path: Path):
    with Image.open(saved(tmp_path, film(), "image/gif", fps=12)) as moving:
        lasting = []
        for number in range(moving.n_frames):
            moving.seek(number)
            lasting.append(moving.info["duration"])
        assert moving.info["loop"] == 0
        assert moving.convert("RGB").getpixel((5, 5)) == (255, 255, 255)
    assert len(lasting) == 12
    assert set(lasting) == {80, 90}  # milliseconds, which a GIF stores in tens
    assert sum(lasting) == 1000


@pytest.mark.parametrize("content_type", ["image/gif", "image/bmp", "image/tiff"])
def test_image_is_saved_in_any_format(tmp_path: Path, content_type: str):
    path = saved(tmp_path, Image.new("RGB", (8, 4), "red"), content_type)
    with Image.open(path) as read:
        assert (read.size, read.convert("RGB").getpixel((2, 2))) == ((8, 4), (255, 0, 0))


@pytest.mark.parametrize("content_type", ["image/png", "image/tiff"])
def test_one_channel_measures_keep_sixteen_bits(tmp_path: Path, content_type: str):
    depth = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32, 1)
    with Image.open(saved(tmp_path, depth, content_type)) as read:
        assert np.abs(np.asarray(read) / 65535 - depth[..., 0]).max() < 1e-4


def test_negative_normals_become_colours(tmp_path: Path):
    normals = np.zeros((4, 4, 3), np.float32)
    normals[..., 0], normals[..., 2] = -1, 1
    with Image.open(saved(tmp_path, normals, "image/png")) as read:
        assert read.getpixel((1, 1)) == (0, 128, 255)


def test_tensor_is_an_image_but_latents_are_not(tmp_path: Path):
    with Image.open(saved(tmp_path, torch.ones(3, 4, 8), "image/png")) as read:
        assert (read.size, read.getpixel((1, 1))) == ((8, 4), (255, 255, 255))
    with pytest.raises(ResultError, match="4x8x16 numbers is not a picture"):
        saved(tmp_path, torch.zeros(4, 8, 16), "image/png")
    with pytest.raises(ResultError, match="no frames to save"):
        saved(tmp_path, torch.zeros(16, 2, 8, 8), "video/mp4")
