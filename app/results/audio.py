"""Sounds: uncompressed, lossless, or MP3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import ResultError
from app.outputs import Record, replacing
from app.tasks.media import AudioVideo, as_sound

if TYPE_CHECKING:
    from app.workflow.plan import ResultSpec

CODECS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame"}
CHUNK_SAMPLES = 1 << 16
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def save_wav(artifact: Any, path: Path, record: Record, spec: ResultSpec) -> None:
    """Write 16-bit PCM, the record in the comment."""
    _save(artifact, path, record, spec, "wav")


def save_flac(artifact: Any, path: Path, record: Record, spec: ResultSpec) -> None:
    """Write FLAC, the record in the comment."""
    _save(artifact, path, record, spec, "flac")


def save_mp3(artifact: Any, path: Path, record: Record, spec: ResultSpec) -> None:
    """Write MP3, the record in the comment; rates that MP3 does not have become 48 kHz."""
    _save(artifact, path, record, spec, "mp3")


def _save(artifact: Any, path: Path, record: Record, spec: ResultSpec, kind: str) -> None:
    import av

    try:
        sound = as_sound(artifact)
    except ValueError as error:
        raise ResultError(f"The step made no sound that could be saved: {error}.") from error
    own = artifact.sample_rate if isinstance(artifact, AudioVideo) else None
    rate = own or spec.sample_rate
    with replacing(path) as file, av.open(file, "w", format=kind) as container:
        container.metadata["comment"] = json.dumps(record, ensure_ascii=False)
        written = rate if kind != "mp3" or rate in MP3_RATES else 48_000
        stream = container.add_stream(CODECS[kind], rate=written, layout=layout_of(sound))
        for packet in encoded(stream, sound, rate):
            container.mux(packet)


def layout_of(sound: Any) -> str:
    """How players name so many channels. Raises ResultError for more than two."""
    count = sound.shape[1]
    if count > 2:
        raise ResultError(f"A sound of {count} channels cannot be saved; two are the most.")
    return "stereo" if count == 2 else "mono"


def encoded(stream: Any, sound: Any, rate: int) -> Iterator[Any]:
    """The packets of this sound in the stream's codec and rate; `rate` is the sound's own."""
    import av
    import numpy as np

    resampler = av.AudioResampler(stream.format, stream.layout, stream.rate, stream.frame_size)
    for start in range(0, len(sound), CHUNK_SAMPLES):
        chunk = np.ascontiguousarray(sound[start : start + CHUNK_SAMPLES].clip(-1, 1).T)
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout_of(sound))
        frame.sample_rate, frame.pts = rate, start
        for resampled in resampler.resample(frame):
            yield from stream.encode(resampled)
    for resampled in resampler.resample(None):
        yield from stream.encode(resampled)
    yield from stream.encode(None)
