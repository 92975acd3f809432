"""Videos for Qwen3-VL are prepared without torchvision, as transformers prepares images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2VLImageProcessorPil, Qwen3VLProcessor

from app.compat.worker.qwen3_videos import CONFIG, Qwen3Videos
from app.errors import LoadError
from app.worker.loading.processors import load_processor
from tests.standins.parts import qwen_tokenizer

HEIGHT, WIDTH, PATCH = 64, 96, 16
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def films(folder: Path, **settings: object) -> Qwen3Videos:
    told = {"image_mean": MEAN, "image_std": STD, **settings}
    (folder / CONFIG).write_text(json.dumps(told))
    return Qwen3Videos(folder)


def frames(count: int) -> np.ndarray:
    shape = (count, HEIGHT, WIDTH, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_qwen3_still_video_has_patches_of_its_image(tmp_path: Path):
    picture = frames(1)[0]
    size = {"shortest_edge": 1, "longest_edge": 10**6}
    made = films(tmp_path, size=size)([np.stack([picture] * 2)], False, "pt")
    processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH, size=size, image_mean=MEAN, image_std=STD
    )
    expected = processor(images=[Image.fromarray(picture)], return_tensors="pt")
    torch.testing.assert_close(made["pixel_values_videos"], expected["pixel_values"])
    assert made["video_grid_thw"].tolist() == expected["image_grid_thw"].tolist()


def test_qwen3_videos_are_resized_as_required(tmp_path: Path):
    size = {"shortest_edge": 4 * 128 * 128, "longest_edge": 10**6}
    made = films(tmp_path, size=size)([frames(4), frames(5)], False, "pt")
    four, five = made["video_grid_thw"].tolist()
    assert four[1] * four[2] * PATCH**2 * 4 >= size["shortest_edge"]
    # A fifth frame is repeated: patches hold two.
    assert (four[0], five[0]) == (2, 3)
    assert len(made["pixel_values_videos"]) == sum(t * h * w for t, h, w in (four, five))


def test_qwen3_processor_has_substitute_without_torchvision(tmp_path: Path):
    qwen_tokenizer().save_pretrained(tmp_path)
    Qwen2VLImageProcessorPil(patch_size=PATCH).save_pretrained(tmp_path)
    films(tmp_path, temporal_patch_size=2)
    processor = load_processor(Qwen3VLProcessor, tmp_path)
    assert isinstance(processor, Qwen3VLProcessor)
    made = processor.video_processor(
        videos=[frames(4)], do_sample_frames=False, return_tensors="pt"
    )
    assert made["video_grid_thw"].shape == (1, 3)


def test_auto_processor_uses_class_named_in_files(tmp_path: Path):
    qwen_tokenizer().save_pretrained(tmp_path)
    Qwen2VLImageProcessorPil(patch_size=PATCH).save_pretrained(tmp_path)
    films(tmp_path, temporal_patch_size=2)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Qwen3VLProcessor"}')
    assert isinstance(load_processor(AutoProcessor, tmp_path), Qwen3VLProcessor)


def test_files_without_processor_class_are_reported(tmp_path: Path):
    with pytest.raises(LoadError, match="do not name a processor class"):
        load_processor(AutoProcessor, tmp_path)
