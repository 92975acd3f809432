"""Constructs objects of diffusers' data classes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from app.errors import StepError
from app.tasks.media import AudioVideo, as_audio, as_image, check_video
from app.workflow.planning.objects import DATA_CLASSES, data_class


def build(class_name: str, media: Any, arguments: Mapping[str, Any]) -> Any:
    """Returns the object; `media` is an image, a video or audio, as its class needs, or None.

    `arguments` override the media's own frame rate and sample rate. Raises StepError.
    """
    module = importlib.import_module(f"diffusers.{DATA_CLASSES[class_name]}")
    known = data_class(class_name)
    try:
        made_of = {} if media is None or known.kind is None else _FIELDS[known.kind](media)
        given = {name: value for name, value in made_of.items() if name in known.fields}
        return getattr(module, class_name)(**{**given, **arguments})
    except (TypeError, ValueError) as error:
        raise StepError(f"A {class_name} cannot be created: {error}.") from error


def _of_image(media: Any) -> dict[str, Any]:
    return {"image": as_image(media).convert("RGB")}


def _of_video(media: Any) -> dict[str, Any]:
    check_video(media)
    if not isinstance(media, AudioVideo):
        return {"frames": media}
    fields = {"frames": media.frames}
    if media.audio is not None:
        fields |= _of_audio(media)
    return fields if media.fps is None else {**fields, "fps": media.fps}


def _of_audio(media: Any) -> dict[str, Any]:
    import torch

    samples = torch.from_numpy(as_audio(media).T.copy())
    if isinstance(media, AudioVideo):
        return {"audio": samples, "sample_rate": media.sample_rate}
    return {"audio": samples}


_FIELDS = {"image": _of_image, "video": _of_video, "audio": _of_audio}
