"""Writes audio: uncompressed, lossless, or compressed.

PyAV writes all formats. Its FFmpeg has no libvorbis, and FFmpeg's own Vorbis encoder is called
experimental; at its fifth quality a test tone with noise came back with 25 dB of signal to noise,
where libmp3lame's 192 kbit/s gave 23 (PyAV 18.1). So no second library is needed for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from app.errors import ResultError
from app.media.audio_files import AUDIO_FILES, CODECS, PLAIN
from app.outputs import NewFile, Record
from app.tasks.media import AudioVideo, as_audio

if TYPE_CHECKING:
    from app.dialect.plan import ResultSpec

DEFAULT_RATE = 44_100
"""Sample rate in Hz where none is given."""
CHUNK_SAMPLES = 1 << 16
QUALITY_UNIT = 118
"""FFmpeg's FF_QP2LAMBDA: `global_quality` per unit of an encoder's own quality."""


def save_audio(artifact: Any, file: NewFile, record: Record, spec: ResultSpec) -> None:
    """Writes audio as its content type and options say, the record in the comment.

    The sample rate is the result block's, else the audio's own.
    """
    import av
    import numpy as np

    kind = AUDIO_FILES[spec.content_type]
    encoder = kind.codecs[spec.subtype or next(iter(kind.codecs))]
    codec = CODECS.get(encoder, PLAIN)
    try:
        audio = as_audio(artifact)
    except ValueError as error:
        raise ResultError(f"The result cannot be saved as a sound: {error}.") from error
    own = artifact.sample_rate if isinstance(artifact, AudioVideo) else None
    rate = spec.sample_rate or own or DEFAULT_RATE
    written = rate if not codec.rates or rate in codec.rates else 48_000
    layout = layout_of(audio)
    if layout not in codec.layouts:
        audio, layout = np.repeat(audio, 2, axis=1), "stereo"
    with av.open(file, "w", format=kind.container) as container:
        container.metadata["comment"] = json.dumps(record, ensure_ascii=False)
        stream = container.add_stream(
            encoder.partition(" ")[0],
            rate=written,
            layout=layout,
            options=codec_options(encoder, written, spec.compression_level, spec.bitrate_mode),
        )
        if codec.sample_format:
            stream.format = codec.sample_format
        for packet in encoded(stream, audio, rate):
            container.mux(packet)


BitrateMode = Literal["CONSTANT", "AVERAGE", "VARIABLE"]


def codec_options(
    encoder: str, rate: int, compression: float | None, mode: BitrateMode | None
) -> dict[str, str]:
    """Returns the encoder's options for a `compression_level` of 0 (best, largest) to 1.

    The dialect uses libsndfile's scales: MP3 320 to 32 kbit/s (160 to 8 below 32 kHz, 64 to 8 below
    16) or LAME's VBR quality 0 to 10, Opus 256 to 6 kbit/s, Vorbis its quality, FLAC levels 0 to 8.
    """
    if encoder.startswith("flac"):
        return {} if compression is None else {"compression_level": str(round(8 * compression))}
    if encoder == "vorbis":
        quality = 5 if compression is None else 10 * (1 - compression)
        # FFmpeg requires this for experimental encoders.
        return {"strict": "experimental", **quality_options(quality)}
    if encoder == "libmp3lame":
        if mode == "VARIABLE":
            return quality_options(4 if compression is None else min(9.9, 10 * compression))
        best, worst = (320, 32) if rate >= 32_000 else (160, 8) if rate >= 16_000 else (64, 8)
        # 192 kbit/s at usual sample rates.
        level = 0.45 if compression is None else compression
        bit_rate = round(best - level * (best - worst)) * 1000
        return {"b": str(bit_rate), "abr": "1" if mode == "AVERAGE" else "0"}
    if encoder == "libopus":
        level = 0.4 if compression is None else compression
        vbr = {"CONSTANT": "off", "AVERAGE": "constrained", "VARIABLE": "on", None: "on"}[mode]
        return {"b": str(round(256_000 - level * 250_000)), "vbr": vbr}
    return {}


def quality_options(quality: float) -> dict[str, str]:
    """Returns options for constant quality, on the encoder's own scale."""
    return {"flags": "+qscale", "global_quality": str(round(QUALITY_UNIT * quality))}


def layout_of(audio: Any) -> str:
    """Returns the layout's name: mono or stereo. Raises ResultError for more channels."""
    count = audio.shape[1]
    if count > 2:
        raise ResultError(f"A sound of {count} channels cannot be saved; the maximum is two.")
    return "stereo" if count == 2 else "mono"


def encoded(stream: Any, audio: Any, rate: int) -> Iterator[Any]:
    """Yields packets of the audio in the stream's codec and rate; `rate` is the audio's own."""
    import av
    import numpy as np

    resampler = av.AudioResampler(stream.format, stream.layout, stream.rate, stream.frame_size)
    for start in range(0, len(audio), CHUNK_SAMPLES):
        chunk = np.ascontiguousarray(audio[start : start + CHUNK_SAMPLES].clip(-1, 1).T)
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout_of(audio))
        frame.sample_rate, frame.pts = rate, start
        for resampled in resampler.resample(frame):
            yield from stream.encode(resampled)
    for resampled in resampler.resample(None):
        yield from stream.encode(resampled)
    yield from stream.encode(None)
