"""Processors with a part for videos are loaded without torchvision, which that part needs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessorPil,
    Qwen2VLImageProcessorPil,
)

from app.worker.loading.processors import VIDEO_PROCESSOR, load_processor
from tests.standins.gemma import gemma_tokenizer
from tests.standins.parts import qwen_tokenizer

BY_KEYWORD = ["Gemma4Processor", "Gemma4UnifiedProcessor", "EmbeddingGemma2Processor",
              "MuseGlimmerProcessor", "MuseSparkProcessor", "Dots3NoteProcessor"]  # fmt: skip
"""Classes that hand the part on by its name."""
BY_POSITION = ["Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Glm4vProcessor", "Qwen3VLProcessor",
               "VideoLlavaProcessor", "LlavaNextVideoProcessor"]  # fmt: skip

TEMPLATE = "{{ messages[0].content }}"


def saved(folder: Path, name: str) -> list[str]:
    """Writes the files of the class's parts; returns their names, without that for videos."""
    gemma = "Gemma" in name
    tokenizer: Any = gemma_tokenizer() if gemma else qwen_tokenizer()
    tokenizer.save_pretrained(folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    marks = ("image_token", "boi_token", "eoi_token", "audio_token")
    told["extra_special_tokens"] = {mark: f"<{mark}>" for mark in marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    processor: dict[str, Any] = {"processor_class": name}
    if gemma:
        processor["image_seq_length"] = 7
    parts = list(inspect.signature(getattr(transformers, name)).parameters)
    if "image_processor" in parts:
        images: Any = Gemma4ImageProcessorPil() if gemma else Qwen2VLImageProcessorPil()
        images.save_pretrained(folder)
        processor["image_processor"] = images.to_dict()
    if "feature_extractor" in parts:
        processor["feature_extractor"] = json.loads(Gemma4AudioFeatureExtractor().to_json_string())
    (folder / "processor_config.json").write_text(json.dumps(processor))
    known = ("feature_extractor", "image_processor", "tokenizer")
    return [part for part in parts if part in known]


@pytest.mark.parametrize("name", [*BY_KEYWORD, *BY_POSITION])
def test_processor_is_loaded_without_its_part_for_videos(tmp_path: Path, name: str):
    parts = saved(tmp_path, name)
    kind = getattr(transformers, name)
    processor = load_processor(kind, tmp_path)
    assert isinstance(processor, kind)
    assert type(processor).__name__ == name
    assert processor.chat_template == TEMPLATE
    if "Gemma" in name:
        assert processor.image_seq_length == 7
    for part in parts:
        expected = "Tokenizer" if part == "tokenizer" else part.title().replace("_", "")
        assert expected in "".join(each.__name__ for each in type(getattr(processor, part)).mro())
    if name != "Qwen3VLProcessor":
        # That one has a substitute.
        with pytest.raises(AttributeError, match="video input needs torchvision"):
            getattr(processor, VIDEO_PROCESSOR)
