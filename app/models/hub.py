"""The hub's cache on this machine. Never the network, never torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from app.dialect.files import read_object
from app.dialect.plan_sources import ModelSource
from app.models.model_index import INDEXES
from app.models.unlisted import likely_files
from app.stamps import FileStamp, stamp_of

Choose = Callable[[Sequence[str]], Iterable[str]]
"""Chooses the wanted ones of a repository's files; may name others, which it may have or not."""
TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Files fetched of every repository. Weights are fetched by name; no pickles, no code."""
TREE_FORMAT = 1
"""Version of the file lists that the hub's library keeps beside its downloads."""
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
"""Approximate download of a first run: parameter counts of the published configurations times the
bytes of the dtype their files are in. For the person who chooses, not for arithmetic."""


def is_repository(name: str) -> bool:
    """Returns True for a name of the form `owner/name`."""
    return REPOSITORY.fullmatch(name) is not None and ".." not in name


class Place(NamedTuple):
    """Where models are downloaded so that a worker can read them."""

    cache: Path
    """The hub's cache folder, laid out by its library."""


def this_machine() -> Place:
    """Returns the place that workers of this machine read from."""
    return Place(cache_folder())


def cache_folder() -> Path:
    """Returns the hub's cache folder, found as huggingface_hub finds it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(base) / "huggingface"
    named = os.environ.get("HF_HUB_CACHE") or Path(home) / "hub"
    return Path(os.path.expandvars(named)).expanduser()


def find_in_folders(repository: str, folders: Iterable[Path]) -> Path | None:
    """Returns the folder of `owner/name` below the first of these that has one, or None."""
    if not is_repository(repository):
        return None
    return next((root / repository for root in folders if (root / repository).is_dir()), None)


def find_snapshot(
    repository: str, revision: str | None = None, part: str | None = None
) -> Path | None:
    """Returns the folder of a downloaded diffusers model, or None for a missing or incomplete one.

    `part` is the folder of the wanted component, of a repository that may hold nothing else ("" for
    the repository's own); None for the whole pipeline, which has an index.
    """
    folder = snapshot_folder(this_machine(), repository, revision)
    wanted = INDEXES if part is None else (part,)
    if folder is None or not any((folder / each).exists() for each in wanted):
        return None
    interrupted = any((folder.parents[1] / "blobs").glob("*.incomplete"))
    return None if interrupted else folder


def folder_of(source: ModelSource, part: str | None = None) -> Path | None:
    """Returns the model's folder; None where it is not on this machine. `part` is that of
    `find_snapshot`."""
    if source.folder is not None:
        return Path(source.folder)
    return find_snapshot(source.model, source.revision, part)


def snapshot_folder(place: Place, repository: str, revision: str | None) -> Path | None:
    """Returns the folder of a repository's revision, as far as it is cached; None where nothing is
    known of it."""
    root = place.cache / f"models--{repository.replace('/', '--')}"
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "")
    return root / "snapshots" / commit if commit else None


class Held(NamedTuple):
    """The files of a wanted model that a place has."""

    folder: Path | None
    """None where it has none."""
    wanted: tuple[str, ...] = ()
    """The chosen files."""
    missing: tuple[str, ...] = ()
    """Those that are not there."""

    @property
    def is_whole(self) -> bool:
        """True if the model can be loaded from there."""
        return self.folder is not None and not self.missing


def held(place: Place, repository: str, revision: str | None, choose: Choose) -> Held:
    """Returns what the place has of the chosen files of a repository.

    Downloads of an older library stored no list of its files: they are guessed from those that are
    there, see `likely_files`.
    """
    folder = snapshot_folder(place, repository, revision)
    if folder is None:
        return Held(None)
    files: Sequence[str] = _files_in_tree(folder)
    if files:
        known = set(files)
        wanted = tuple(dict.fromkeys(name for name in choose(files) if name in known))
    elif folder.is_dir():
        wanted = tuple(dict.fromkeys(choose(likely_files(folder, repository))))
    else:
        return Held(None)
    missing = tuple(name for name in wanted if not (folder / name).is_file())
    return Held(folder, wanted, missing)


def is_text(name: str) -> bool:
    """Returns True for a file that is fetched of every repository."""
    return any(fnmatchcase(name, each) for each in TEXT_FILES)


def listed_files(repository: str, revision: str | None = None) -> tuple[str, ...]:
    """Returns the files of a repository, as listed when it was last fetched; empty without a
    list."""
    folder = snapshot_folder(this_machine(), repository, revision)
    return () if folder is None else _files_in_tree(folder)


def _files_in_tree(folder: Path) -> tuple[str, ...]:
    """Returns the files in the list of this snapshot's repository; empty without a list."""
    tree = folder.parents[1] / "trees" / f"{folder.name}.json"
    try:
        return _listed(tree, stamp_of(tree))
    except (OSError, ValueError, TypeError, AttributeError):
        return ()


@lru_cache(maxsize=256)
def _listed(tree: Path, _stamp: FileStamp) -> tuple[str, ...]:
    """Returns the names in a repository's list of files; read again when it has changed."""
    found = read_object(tree)
    if found.get("format_version") != TREE_FORMAT:
        raise ValueError(f"'{tree.name}' has another format")
    return tuple(sorted(found["files"]))
