"""Processors, which prepare text, images and videos for one model.

The part for videos needs torchvision; without torchvision a processor is loaded without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import ProcessorMixin
from transformers.utils import is_torchvision_available

from app.errors import LoadError

VIDEO_PROCESSOR = "video_processor"
CONFIGURATIONS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files that name a processor's class."""
PROCESSORS: dict[str, type[Any]] = {
    # FLUX.2 sends its language model chat text only, no images.
    "PixtralProcessor": transformers.AutoTokenizer,
}
"""The class to load instead of one that a model's index names."""


class _WithoutVideos(ProcessorMixin):  # type: ignore[misc]
    """Comes before a processor's class: its part for videos is None, and counts for nothing."""

    @classmethod
    def from_args_and_dict(cls, args: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        """Hands the parts to the constructor in its own order, with None for videos."""
        given = dict(zip(cls.get_attributes(), args, strict=True))
        every = [given.get(name) for name in super().get_attributes()]
        return super().from_args_and_dict(every, *arguments, **named)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != VIDEO_PROCESSOR]

    def __getattr__(self, name: str) -> Any:
        if name == VIDEO_PROCESSOR:
            raise AttributeError("video input needs torchvision (pip install torchvision)")
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


def _without_videos(processor_class: type[Any]) -> Any:
    """Returns the class without its part for videos."""
    order = processor_class.get_attributes()

    class Last(ProcessorMixin):  # type: ignore[misc]
        """Comes after the class: takes what its constructor hands on to all processors'."""

        def __init__(self, *parts: Any, **named: Any) -> None:
            given = {**dict(zip(order, parts, strict=False)), **named}
            given.pop(VIDEO_PROCESSOR, None)
            super().__init__(**given)

    return type(processor_class.__name__, (_WithoutVideos, processor_class, Last), {})


def load_processor(processor_class: type[Any], folder: Path) -> Any:
    """Returns the processor in this folder; without torchvision, with a substitute for its part
    for videos if there is one. For AutoProcessor the files name the class."""
    if processor_class is transformers.AutoProcessor:
        processor_class = _class_in(folder)
    if VIDEO_PROCESSOR not in processor_class.get_attributes() or is_torchvision_available():
        return processor_class.from_pretrained(folder, local_files_only=True)
    without = _without_videos(processor_class)
    processor = without.from_pretrained(folder, local_files_only=True)
    if issubclass(processor_class, transformers.Qwen3VLProcessor):
        from app.compat.worker.qwen3_videos import Qwen3Videos

        setattr(processor, VIDEO_PROCESSOR, Qwen3Videos(folder))
    return processor


def _class_in(folder: Path) -> type[ProcessorMixin]:
    """Returns the class the files name. Raises LoadError if transformers has none of that name."""
    for file in CONFIGURATIONS:
        if (folder / file).is_file():
            named = json.loads((folder / file).read_bytes()).get("processor_class")
            found = getattr(transformers, str(named), None)
            if isinstance(found, type) and issubclass(found, ProcessorMixin):
                return found
    raise LoadError(
        f"The files in {folder.name}/ do not name a processor class.",
        hint="Name its class as 'component_type'.",
    )
