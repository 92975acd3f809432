"""Writes videos: h264 in mp4, which plays everywhere, and other formats on demand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from app.compat.worker.x264 import repeatable_options
from app.errors import ResultError
from app.media.audio_files import OPUS_RATES
from app.outputs import NewFile, Record
from app.tasks.media import DEFAULT_FPS, AudioVideo, VideoFileFrames, as_array, as_audio, as_bytes
from app.worker.results.audio import encoded, layout_of, quality_options

if TYPE_CHECKING:
    import numpy as np

    from app.dialect.plan import ResultSpec

    Frame = np.ndarray[Any, np.dtype[Any]]

Size = tuple[int, int]
FINE_CRF = "8"
"""x264 quality (0 to 51) without visible loss; 23 is usual."""
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Sample rates of AAC in Hz; others become 48 kHz."""
MP3_RATES = (32_000, 44_100, 48_000)
"""Sample rates of MP3 that every player supports in AVI."""


class VideoFile(NamedTuple):
    container: str
    """FFmpeg's name."""
    codec: str
    audio_codec: str
    rates: tuple[int, ...]
    """Supported sample rates of its audio in Hz; others become 48 kHz."""


VIDEO_FILES = {
    "video/mp4": VideoFile("mp4", "libx264", "aac", AAC_RATES),
    "video/quicktime": VideoFile("mov", "libx264", "aac", AAC_RATES),
    "video/x-matroska": VideoFile("matroska", "libx264", "aac", AAC_RATES),
    "video/webm": VideoFile("webm", "libvpx-vp9", "libopus", OPUS_RATES),
    "video/x-msvideo": VideoFile("avi", "mpeg4", "libmp3lame", MP3_RATES),
}
"""By content type."""


def save_video(artifact: Any, file: NewFile, record: Record, spec: ResultSpec) -> Size:
    """Writes a video with its audio if any; returns width and height in pixels, cropped to even
    numbers.

    `artifact` is a list of images, an array (frames, height, width, 3) of 0..1 or 0..255, or an
    AudioVideo.
    """
    audio, rate = None, None
    spec = _paced(spec, artifact)
    if isinstance(artifact, AudioVideo):
        rate = spec.audio_sample_rate or artifact.sample_rate
        audio = None if artifact.audio is None else as_audio(artifact)
        artifact = artifact.frames
    return write_video(file, frames_of(artifact), record, spec, audio, rate)


def write_video(
    file: Any,
    frames: Iterable[Frame],
    record: Record,
    spec: ResultSpec,
    audio: Any = None,
    rate: int | None = None,
    *,
    fine: bool = False,
) -> Size:
    """Writes frames (height, width, 3) of 0..255; returns width and height as written.

    `fine`: high quality, for a video that will be compressed again. `audio` is (samples, channels)
    of -1..1, `rate` its sample rate in Hz. Raises ResultError.
    """
    import av
    import numpy as np

    kind = VIDEO_FILES[spec.content_type]
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ResultError("The result has no frames to save as a video.")
    # yuv420p, the only format every player supports, needs even sides.
    height, width = (side - side % 2 for side in first.shape[:2])
    if not height or not width:
        raise ResultError(
            f"Frames of {first.shape[1]}x{first.shape[0]} pixels are too small for a video."
        )
    with av.open(file, "w", format=kind.container) as container:
        container.metadata["comment"] = json.dumps(record, ensure_ascii=False)
        stream = container.add_stream(
            kind.codec,
            rate=Fraction(spec.fps or DEFAULT_FPS).limit_denominator(1001),
            options={**_options(kind.codec), **({"crf": FINE_CRF} if fine else {})},
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        audio_stream = None
        if audio is not None and rate:
            # All streams must be added before the first packet.
            audio_stream = container.add_stream(
                kind.audio_codec,
                rate=rate if rate in kind.rates else 48_000,
                layout=layout_of(audio),
            )
        for frame in chain([first], frames):
            image = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), format="rgb24"
            )
            container.mux(stream.encode(image))
        container.mux(stream.encode())
        if audio_stream is not None and rate:
            for packet in encoded(audio_stream, audio, rate):
                container.mux(packet)
    return width, height


def save_gif(artifact: Any, file: NewFile, _record: Record, spec: ResultSpec) -> Size:
    """Writes a looping or still GIF; returns width and height in pixels.

    GIF times are hundredths of a second: frame durations vary slightly, so that the total follows
    `fps`. Each frame has its own palette of 256 colours.
    """
    from PIL import Image

    spec = _paced(spec, artifact)
    if isinstance(artifact, AudioVideo):
        artifact = artifact.frames
    frames = [Image.fromarray(frame) for frame in frames_of(artifact)]
    if not frames:
        raise ResultError("The result has no frames to save as a moving picture.")
    fps = spec.fps or DEFAULT_FPS
    times_ms = [round(index * 100 / fps) * 10 for index in range(len(frames) + 1)]
    frames[0].save(
        cast("IO[bytes]", file),
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[after - before for before, after in pairwise(times_ms)],
        loop=0,
    )
    return frames[0].size


def _paced(spec: ResultSpec, artifact: Any) -> ResultSpec:
    """Returns the spec with the video's own frame rate, if it sets none."""
    if spec.fps is None and isinstance(artifact, AudioVideo) and artifact.fps is not None:
        return spec.model_copy(update={"fps": artifact.fps})
    return spec


def frames_of(video: Any) -> Iterator[Frame]:
    """Yields the frames of a video as (height, width, 3) of 0..255. Raises ResultError.

    A single image is a video of one frame; in a tensor, channels come second.
    """
    import numpy as np
    from PIL import Image

    if isinstance(video, Image.Image):
        video = [video]
    video = as_array(video)
    if not isinstance(video, np.ndarray | list | tuple | VideoFileFrames):
        raise ResultError(f"A {type(video).__name__} cannot be saved as a video.")
    for frame in video:
        image = frame.convert("RGB") if isinstance(frame, Image.Image) else frame
        array = np.asarray(image)
        if array.ndim != 3 or array.shape[2] != 3:
            raise ResultError(
                "The result has no frames to save as a video.",
                hint="Leave output_type out, or give the step no result block.",
            )
        yield as_bytes(array)


def _options(codec: str) -> dict[str, str]:
    """Returns options for byte-identical output of identical frames; codecs other than x264 get a
    quality instead of a bit rate."""
    if codec == "libvpx-vp9":
        return {"crf": "32", "b": "0", "deadline": "good", "cpu-used": "4"}
    if codec == "mpeg4":
        return quality_options(3)
    return repeatable_options()
