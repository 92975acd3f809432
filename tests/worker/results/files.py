"""Writes artifacts by content type, and reads records, audio and videos back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from app.dialect.plan import ResultSpec
from app.dialect.result_kinds import RESULT_KINDS
from app.outputs import RECORD_KEY, Record, replacing
from app.worker.results import writer_of
from app.worker.results.image import EXIF_IFD, UNICODE_COMMENT, USER_COMMENT

RECORD = {"seed": 7, "prompt": "ü"}


class Film(NamedTuple):
    """The content of a video file."""

    frames: np.ndarray
    """(frames, height, width, 3) of 0..255."""
    fps: float
    sound: np.ndarray | None
    """(samples, channels) of -1..1."""
    rate: int | None


def tone(rate: int, seconds: float = 1.0, channels: int = 2) -> np.ndarray:
    """Returns 440 Hz at half of full scale on the first channel; the others are silent."""
    sound = np.zeros((round(rate * seconds), channels), np.float32)
    sound[:, 0] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(sound)) / rate)
    return sound


def loudest_hz(sound: np.ndarray, rate: int) -> float:
    """Returns the loudest frequency of the first channel."""
    return float(np.abs(np.fft.rfft(sound[:, 0])).argmax() * rate / len(sound))


def saved(folder: Path, artifact: Any, content_type: str, **spec: Any) -> Path:
    kind = RESULT_KINDS[content_type]
    path = folder / f"made{kind.suffix}"
    with replacing(path) as file:
        writer_of(kind)(artifact, file, RECORD, ResultSpec(content_type=content_type, **spec))
    return path


def heard(path: Path) -> tuple[np.ndarray, int]:
    """Returns the file's samples (samples, channels) of -1..1, and its sample rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = av.AudioResampler("fltp", stream.layout, stream.rate)
        parts = [
            resampled.to_ndarray()
            for frame in container.decode(audio=0)
            for resampled in frames.resample(frame)
        ]
        return np.concatenate(parts, axis=1).T, stream.rate


def seen(path: Path | str) -> Film:
    """Returns the video in the file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        fps = float(stream.average_rate or 0)
        has_sound = bool(container.streams.audio)
    return Film(frames, fps, *(heard(Path(path)) if has_sound else (None, None)))


def read_record(path: Path) -> Record | None:
    """Returns the record inside an image, or None if it has none (or a sidecar reference)."""
    with Image.open(path) as picture:
        text = getattr(picture, "text", {}).get(RECORD_KEY)
        if text is None:
            comment = picture.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
            if not isinstance(comment, bytes) or not comment.startswith(UNICODE_COMMENT):
                return None
            text = comment[len(UNICODE_COMMENT) :].decode("utf-16-be")
    return dict(json.loads(text))
