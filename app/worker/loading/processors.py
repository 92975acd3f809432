"""Processors, which prepare words, pictures and films for one model together.

The parts for words and pictures need no further package; the part for films needs torchvision.
Where that is not installed a processor is put together without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import ProcessorMixin
from transformers.utils import is_torchvision_available

from app.errors import LoadError

FILMS = "video_processor"
CONFIGURATIONS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Where a processor's files name its class."""
PROCESSORS: dict[str, type[Any]] = {
    # FLUX.2 writes its prompts into a chat and shows its language model no pictures.
    "PixtralProcessor": transformers.AutoTokenizer,
}
"""What is loaded where a model's index names one of these classes."""


class _WithoutFilms(ProcessorMixin):  # type: ignore[misc]
    """A processor's class with all of its parts but the one for films."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != FILMS]

    def __getattr__(self, name: str) -> Any:
        if name == FILMS:
            raise AttributeError("to look at a film it needs torchvision (pip install torchvision)")
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


def load_processor(processor_class: type[Any], folder: Path) -> Any:
    """The processor in this folder, with what there is instead of its part for films where
    torchvision is missing. An AutoProcessor is of the class that its files name."""
    if processor_class is transformers.AutoProcessor:
        processor_class = _class_in(folder)
    if FILMS not in processor_class.get_attributes() or is_torchvision_available():
        return processor_class.from_pretrained(folder, local_files_only=True)
    without: Any = type(processor_class.__name__, (_WithoutFilms, processor_class), {})
    processor = without.from_pretrained(folder, local_files_only=True)
    if issubclass(processor_class, transformers.Qwen3VLProcessor):
        from app.compat.worker.qwen3_videos import Qwen3Videos

        setattr(processor, FILMS, Qwen3Videos(folder))
    return processor


def _class_in(folder: Path) -> type[ProcessorMixin]:
    """Raises LoadError where no file names one of transformers'."""
    for file in CONFIGURATIONS:
        if (folder / file).is_file():
            named = json.loads((folder / file).read_bytes()).get("processor_class")
            found = getattr(transformers, str(named), None)
            if isinstance(found, type) and issubclass(found, ProcessorMixin):
                return found
    raise LoadError(
        f"The files in {folder.name}/ do not say which processor they are of.",
        hint="Name its class as 'component_type'.",
    )
