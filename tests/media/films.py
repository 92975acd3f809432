"""Writes small video and audio files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 8000
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250)]


def film(path: Path, *, fps: int = 8, seconds_of_sound: float = 0.0, side: int = 32) -> Path:
    """Writes a video of four frames, each of one of COLOURS, with a tone of 400 Hz."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        pictures.width = pictures.height = side
        pictures.pix_fmt = "yuv444p"
        sound = container.add_stream("aac", rate=RATE, layout="mono") if seconds_of_sound else None
        for colour in COLOURS:
            array = np.full((side, side, 3), colour, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(array)))
        container.mux(pictures.encode())
        if sound is not None:
            _write(container, sound, seconds_of_sound)
    return path


def tone(path: Path, seconds: float = 0.5) -> Path:
    """Writes audio of 400 Hz."""
    codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus"}
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec[path.suffix], rate=RATE, layout="mono")
        _write(container, sound, seconds)
    return path


def _write(container: Any, stream: Any, seconds: float) -> None:
    samples = np.sin(np.arange(round(seconds * RATE)) * 2 * np.pi * 400 / RATE).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples[None] / 2, format="fltp", layout="mono")
    frame.sample_rate = RATE
    resampler = av.AudioResampler(
        format=stream.codec_context.format, layout="mono", rate=RATE,
        frame_size=stream.codec_context.frame_size or 0,
    )  # fmt: skip
    for each in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(each))
    container.mux(stream.encode())
