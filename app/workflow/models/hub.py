"""What this machine holds of the hub's repositories. Never the network, never torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from app.workflow.models.model_index import INDEXES

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")

DOWNLOAD_BYTES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 2_700_000_000,
    "stabilityai/stable-diffusion-xl-base-1.0": 6_900_000_000,
    "stabilityai/sdxl-turbo": 6_900_000_000,
    "stabilityai/stable-diffusion-3.5-medium": 16_000_000_000,
    "black-forest-labs/FLUX.1-schnell": 34_000_000_000,
    "black-forest-labs/FLUX.1-dev": 34_000_000_000,
    "Tongyi-MAI/Z-Image-Turbo": 33_000_000_000,
    "Qwen/Qwen-Image": 58_000_000_000,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": 29_000_000_000,
    "Qwen/Qwen2.5-1.5B-Instruct": 3_100_000_000,
    "HuggingFaceTB/SmolVLM-256M-Instruct": 510_000_000,
    "Intel/dpt-hybrid-midas": 490_000_000,
    "Intel/dpt-large": 1_400_000_000,
    "openmmlab/upernet-convnext-small": 330_000_000,
    "IDEA-Research/grounding-dino-base": 930_000_000,
    "facebook/sam2-hiera-large": 900_000_000,
    "facebook/sam-vit-base": 380_000_000,
}
"""About how much a first run downloads: parameter counts of the published configurations times the
bytes of the dtype their files are in. For the person who chooses, not for arithmetic."""


def is_repository(name: str) -> bool:
    """Whether the name has the form `owner/name` of a hub repository."""
    return REPOSITORY.fullmatch(name) is not None and ".." not in name


def cache_folder() -> Path:
    """The hub's cache folder, found as huggingface_hub finds it."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def find_in_folders(repository: str, folders: Iterable[Path]) -> Path | None:
    """The folder of `owner/name` below the first of these that has one, or None."""
    if not is_repository(repository):
        return None
    return next((root / repository for root in folders if (root / repository).is_dir()), None)


def find_snapshot(
    repository: str, revision: str | None = None, part: str | None = None
) -> Path | None:
    """The folder of a downloaded diffusers model, or None when it is not (wholly) there.

    `part` is the folder of the component that is wanted, of a repository that may hold nothing
    else ("" for the repository's own); None: the whole pipeline, which has an index.
    """
    root = cache_folder() / f"models--{repository.replace('/', '--')}"
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "")
    folder = root / "snapshots" / commit
    wanted = INDEXES if part is None else (part,)
    if not commit or not any((folder / each).exists() for each in wanted):
        return None
    interrupted = any((root / "blobs").glob("*.incomplete"))
    return None if interrupted else folder
