"""Videos: h264 in mp4, playable everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import ResultError
from app.outputs import Record, replacing
from app.results.audio import encoded, layout_of
from app.tasks.media import AudioVideo, as_bytes, as_sound

if TYPE_CHECKING:
    from app.workflow.plan import ResultSpec

Size = tuple[int, int]
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Samples per second that AAC has; a sound of another rate becomes 48 kHz."""


def save_mp4(artifact: Any, path: Path, record: Record, spec: ResultSpec) -> Size:
    """Write frames as h264, with their sound as AAC; width and height in pixels, cut to even
    numbers.

    `artifact` is a list of pictures, an array (frames, height, width, 3) of 0..1 or 0..255, or an
    AudioVideo.
    """
    import av
    import numpy as np

    sound, rate = None, 0
    if isinstance(artifact, AudioVideo):
        if artifact.audio is not None and artifact.sample_rate is not None:
            sound, rate = as_sound(artifact), artifact.sample_rate
        artifact = artifact.frames
    frames = [as_bytes(np.asarray(frame)) for frame in artifact]
    if not frames or frames[0].ndim != 3:
        raise ResultError("The step made no frames that could be written as a video.")
    # yuv420p, the one format every player knows, needs even sides.
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    with replacing(path) as file, av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = json.dumps(record, ensure_ascii=False)
        stream = container.add_stream("libx264", rate=spec.fps, options=_repeatable())
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        heard = None
        if sound is not None:
            # All streams have to be there before the first packet is.
            heard = container.add_stream(
                "aac", rate=rate if rate in AAC_RATES else 48_000, layout=layout_of(sound)
            )
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), format="rgb24"
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if sound is not None:
            for packet in encoded(heard, sound, rate):
                container.mux(packet)
    return width, height


def _repeatable() -> dict[str, str]:
    """Options of libx264 that make the same frames the same bytes, always.

    Its AVX-512 kernels do not: on a busy machine 37 of 150 encodings of five frames came out
    differently, with AVX2 none of 390 (x264 in PyAV 18.1, an EPYC of family 25), at the same bytes
    otherwise.
    """
    import torch

    avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return {"x264-params": "asm=avx2"} if avx512 else {}
