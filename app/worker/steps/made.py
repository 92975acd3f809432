"""What a step made: what its calls returned, and the artifacts in that.

A reference to a property asks what was returned; a bare one, and the files of a step, are made of
its artifacts. Nothing here knows torch: a tensor is what can be detached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from app.tasks.media import AudioVideo, as_sound

FIELDS = ("images", "image_embeds", "image_embeddings", "frames", "audios", "prediction")
"""The first of these that a pipeline returned holds its artifacts, one an entry."""
RATES = ("audio_sample_rate", "sampling_rate")
"""Where what was returned says how many samples a second its sound has."""


class Output(Mapping[str, Any]):
    """What one call of a pipeline returned, by field; fields of None are left out."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = {name: value for name, value in fields.items() if value is not None}

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Rest(dict[str, Any]):
    """What was returned beside the artifacts: for references, not for files."""


class Made:
    """Everything a step made, in the order of its calls."""

    def __init__(self, returned: Iterable[Any]) -> None:
        self.returned = list(returned)

    @cached_property
    def by_return(self) -> list[list[Any]]:
        """The artifacts, together where they were returned together."""
        return [artifacts_of(each) for each in self.returned]

    @property
    def artifacts(self) -> list[Any]:
        """All artifacts, one after the other."""
        return [artifact for together in self.by_return for artifact in together]


def artifacts_of(returned: Any) -> list[Any]:
    """The artifacts in what one call returned.

    Of a pipeline's output those in the first of FIELDS that is there; of a mapping with `videos`
    those, and a Rest; all else is an artifact itself. A film with a sound is an AudioVideo.
    """
    if isinstance(returned, Output):
        name = next((field for field in FIELDS if field in returned), None)
        if name is None:
            return [returned]
        found = list(returned[name])
        if name == "frames":
            return _with_sounds(found, returned.get("audio"), _rate(returned))
        return list(map(as_sound, found)) if name == "audios" else found
    if isinstance(returned, Mapping) and returned.get("videos") is not None:
        videos = _with_sounds(list(returned["videos"]), returned.get("audio"), _rate(returned))
        rest = {
            key: value
            for key, value in returned.items()
            if key not in ("videos", "audio", *RATES) and value is not None
        }
        return [*videos, Rest(rest)] if rest else videos
    return [returned]


def _with_sounds(videos: list[Any], sounds: Any, rate: int | None) -> list[Any]:
    """The videos, each with the sound of its place in the batch.

    Without a sample rate nobody could play the sound, and latents (of more than two dimensions) are
    none yet.
    """
    if sounds is None or rate is None:
        return videos
    each = list(sounds)
    if len(each) != len(videos) or any(getattr(sound, "ndim", 0) > 2 for sound in each):
        return videos
    return [
        AudioVideo(video, as_sound(sound), rate) for video, sound in zip(videos, each, strict=True)
    ]


def _rate(returned: Mapping[str, Any]) -> int | None:
    found = next((returned[name] for name in RATES if returned.get(name) is not None), None)
    return None if found is None else int(found)
