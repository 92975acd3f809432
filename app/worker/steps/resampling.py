"""Resamples reference audio to the sample rate of a pipeline's model.

The library would need torchaudio for this, which nothing else here needs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.tasks.media import Array

LAYOUTS = {1: "mono", 2: "stereo"}


def resample_references(arguments: Mapping[str, Any], rate: int | None) -> Mapping[str, Any]:
    """Returns the arguments with the audio of all `references` at this rate; None: unchanged."""
    references = arguments.get("references")
    if rate is None or not isinstance(references, list):
        return arguments
    return {**arguments, "references": [_at_rate(each, rate) for each in references]}


def _at_rate(reference: Any, rate: int) -> Any:
    import torch

    audio, own = getattr(reference, "audio", None), getattr(reference, "sample_rate", None)
    if audio is None or own in (None, rate) or audio.shape[0] not in LAYOUTS:
        return reference
    found = copy.copy(reference)
    samples = torch.as_tensor(audio).detach().cpu().float().numpy()
    found.audio = torch.from_numpy(resampled(samples, int(own), rate))
    found.sample_rate = rate
    return found


def resampled(audio: Array, own: int, rate: int) -> Array:
    """Returns the audio (channels, samples) resampled from `own` to `rate`, in Hz."""
    import av
    import numpy as np

    layout = LAYOUTS[audio.shape[0]]
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(audio, dtype=np.float32), format="fltp", layout=layout
    )
    frame.sample_rate = own
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray() for part in parts], axis=1)
