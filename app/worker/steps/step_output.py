"""The results of a step: the values its calls returned, and the artifacts in them.

A reference to a property reads returned values; a bare reference, and a step's files, are its
artifacts. Free of torch: a tensor is recognised by its `detach` method.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from app.tasks.media import AudioVideo, as_audio

FIELDS = ("images", "image_embeds", "image_embeddings", "frames", "audios", "prediction")
"""Fields of a pipeline's output: the first one present holds the artifacts, one per entry."""
RATES = ("audio_sample_rate", "sampling_rate")
"""Fields with the sample rate of the audio."""


class CallOutput(Mapping[str, Any]):
    """The result of one pipeline call, by field, without fields that are None."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = {name: value for name, value in fields.items() if value is not None}

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Extras(dict[str, Any]):
    """Values returned beside the artifacts: for references, not for files."""


class StepOutput:
    """All results of a step, in the order of its calls."""

    def __init__(self, returned: Iterable[Any]) -> None:
        self.returned = list(returned)

    @cached_property
    def by_call(self) -> list[list[Any]]:
        return [artifacts_of(each) for each in self.returned]

    @property
    def artifacts(self) -> list[Any]:
        return [artifact for together in self.by_call for artifact in together]


def artifacts_of(returned: Any) -> list[Any]:
    """Returns the artifacts in one call's result.

    1. A pipeline's output: the entries of the first of FIELDS that is present.
    2. A mapping with `videos`: those, and a Rest with the other values.
    3. Anything else is one artifact.

    A video with audio becomes an AudioVideo.
    """
    if isinstance(returned, CallOutput):
        name = next((field for field in FIELDS if field in returned), None)
        if name is None:
            return [returned]
        found = list(returned[name])
        if name == "frames":
            return _with_audio(found, returned.get("audio"), _rate(returned))
        return list(map(as_audio, found)) if name == "audios" else found
    if isinstance(returned, Mapping) and returned.get("videos") is not None:
        videos = _with_audio(list(returned["videos"]), returned.get("audio"), _rate(returned))
        rest = {
            key: value
            for key, value in returned.items()
            if key not in ("videos", "audio", *RATES) and value is not None
        }
        return [*videos, Extras(rest)] if rest else videos
    return [returned]


def _with_audio(videos: list[Any], audios: Any, rate: int | None) -> list[Any]:
    """Returns the videos, each with the audio of its batch index.

    Audio is ignored without a sample rate, and if it is latents (more than two dimensions).
    """
    if audios is None or rate is None:
        return videos
    each = list(audios)
    if len(each) != len(videos) or any(getattr(audio, "ndim", 0) > 2 for audio in each):
        return videos
    return [
        AudioVideo(video, as_audio(audio), rate) for video, audio in zip(videos, each, strict=True)
    ]


def _rate(returned: Mapping[str, Any]) -> int | None:
    found = next((returned[name] for name in RATES if returned.get(name) is not None), None)
    return None if found is None else int(found)
