"""Stand-ins for the models that tasks have as their defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.standins.language import build_language_model, build_vision_model
from tests.standins.vision import (
    build_depth_model,
    build_detector,
    build_matting_model,
    build_metric_depth_model,
    build_sam,
    build_segmentation_model,
    build_segmenter,
)

TASK_MODELS: dict[str, Callable[[Path], None]] = {
    "Qwen/Qwen2.5-1.5B-Instruct": build_language_model,
    "HuggingFaceTB/SmolVLM-256M-Instruct": build_vision_model,
    "Intel/dpt-hybrid-midas": build_depth_model,
    "Intel/dpt-large": build_depth_model,
    "Intel/zoedepth-nyu-kitti": build_metric_depth_model,
    "openmmlab/upernet-convnext-small": build_segmentation_model,
    "IDEA-Research/grounding-dino-base": build_detector,
    "facebook/sam2-hiera-large": build_segmenter,
    "facebook/sam-vit-base": build_sam,
    "briaai/RMBG-2.0": build_matting_model,
}


def build_task_models(folder: Path) -> None:
    """All of them, in a folder of models."""
    for name, build in TASK_MODELS.items():
        build(folder / name)
