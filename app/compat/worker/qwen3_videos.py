"""Prepares videos for Qwen3-VL without torchvision.

transformers requires torchvision for them, and uses one function of it: resizing. Sizes and patches
are computed by transformers' own functions here too, resizing by the torch function that
torchvision calls itself. Needed with transformers 5.23.0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers.models.qwen3_vl.video_processing_qwen3_vl import (
    Qwen3VLVideoProcessor,
    smart_resize,
)

CONFIG = "video_preprocessor_config.json"
TOGETHER = "processor_config.json"
"""Where newer versions of transformers write the settings of all parts of a processor."""


class Qwen3Videos:
    """The part of a Qwen3-VL processor that prepares videos."""

    def __init__(self, folder: Path) -> None:
        """Reads the settings in this folder, with transformers' defaults for the rest."""
        told = _read(folder / CONFIG) or _read(folder / TOGETHER).get("video_processor") or {}

        def setting(name: str) -> Any:
            return told.get(name, getattr(Qwen3VLVideoProcessor, name))

        self.patch_size = int(setting("patch_size"))
        self.temporal_patch_size = int(setting("temporal_patch_size"))
        self.merge_size = int(setting("merge_size"))
        self._size: dict[str, int] = setting("size")
        self._mean, self._std = (
            torch.tensor(setting(f"image_{name}")).view(3, 1, 1) for name in ("mean", "std")
        )

    def __call__(
        self, videos: Sequence[np.ndarray], do_sample_frames: bool, return_tensors: str
    ) -> dict[str, torch.Tensor]:
        """Returns the patches of these videos (frames, height, width, 3), 0..255, and each video's
        number of patches in time, height and width.

        Keeps all frames and returns tensors, whatever the arguments.
        """
        patches, grids = [], []
        for video in videos:
            frames = self._resized(torch.from_numpy(np.ascontiguousarray(video)))
            normalised = (frames / 255 - self._mean) / self._std
            found, *grid = Qwen3VLVideoProcessor.patchify(
                self, normalised[None], self.patch_size, self.merge_size, self.temporal_patch_size
            )
            patches.append(found[0])
            grids.append(grid)
        return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}

    def _resized(self, video: torch.Tensor) -> torch.Tensor:
        """Returns the frames as (frames, 3, height, width), in a size that patches divide."""
        frames = video.permute(0, 3, 1, 2).float()
        size = smart_resize(
            num_frames=len(frames),
            height=frames.shape[2],
            width=frames.shape[3],
            temporal_factor=self.temporal_patch_size,
            factor=self.patch_size * self.merge_size,
            min_pixels=self._size["shortest_edge"],
            max_pixels=self._size["longest_edge"],
        )
        if size == tuple(frames.shape[2:]):
            return frames
        drawn = interpolate(frames, size, mode="bicubic", antialias=True)
        # Bicubic overshoots at edges; pixels are whole numbers.
        return drawn.round().clamp(0, 255)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}
