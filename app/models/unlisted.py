"""Guesses the files of a downloaded repository of which no list is stored.

Older versions of the hub's library stored none, and fetched only what their caller wanted. Indexes
and configurations that are there tell which other files a model needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from app.dialect.files import config_of, read_object
from app.dialect.fingerprint import WEIGHTS, variants_of
from app.models.class_kinds import has_weights
from app.models.model_index import INDEXES, MODULAR_INDEX, IndexedPart, read_index

CONFIG = "config.json"
CONFIGS = {
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "FeatureExtractor": "preprocessor_config.json",
    "ImageProcessor": "preprocessor_config.json",
}
"""By the end of a class name without weights, the file of its settings."""
SHARDS = ".safetensors.index"
"""In the name of a file that lists the parts of a component's weights."""
VOCABULARY = "tokenizer.json"
HALVES = {"vocab.json", "merges.txt"}
"""A whole vocabulary, and one in two files."""
NO_VOCABULARY = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}


def likely_files(folder: Path, repository: str) -> list[str]:
    """Returns the files that this snapshot of the repository has, and those that it must lack to be
    incomplete, sorted."""
    files = {
        Path(root, name).relative_to(folder).as_posix()
        for root, _, names in os.walk(folder)
        for name in names
    }
    for name in [name for name in files if SHARDS in name and name.endswith(".json")]:
        files |= {*_shards(folder, name)}
    parts = [*_parts(folder, repository)]
    for part in parts:
        files |= {*_of_part(part, files)}
    indexed = {part.subfolder for part in parts}
    for name in [name for name in files if PurePosixPath(name).name == CONFIG]:
        inside = str(PurePosixPath(name).parent).removeprefix(".")
        if inside not in indexed:
            library = "diffusers" if "_class_name" in config_of(folder / inside) else ""
            files |= {*_weights(inside, library, files)}
    return sorted(files)


def _shards(folder: Path, index: str) -> Iterator[str]:
    try:
        listed = read_object(folder / index).get("weight_map")
    except (ValueError, OSError):
        # Its load reports that.
        return
    if isinstance(listed, dict):
        for name in {*listed.values()}:
            yield str(PurePosixPath(index).with_name(str(name)))


def _parts(folder: Path, repository: str) -> Iterator[IndexedPart]:
    """Yields the components that the model's index places in this repository."""
    for name in INDEXES:
        try:
            index = read_index(folder, modular=name == MODULAR_INDEX)
        except (ValueError, OSError):
            continue
        yield from (part for part in index.parts.values() if part.model in (None, repository))


def _of_part(part: IndexedPart, files: Iterable[str]) -> Iterator[str]:
    here = {*_inside(part.subfolder, files)}
    if has_weights(f"{part.library}.{part.class_name}"):
        yield _path(part.subfolder, CONFIG)
        yield from _weights(part.subfolder, part.library, files)
        return
    settings = (name for end, name in CONFIGS.items() if end in part.class_name)
    if not here:
        yield from (_path(part.subfolder, name) for name in settings)
    elif here & HALVES and VOCABULARY not in here:
        yield from (_path(part.subfolder, name) for name in HALVES)
    if "Tokenizer" in part.class_name and here <= NO_VOCABULARY:
        yield _path(part.subfolder, VOCABULARY)


def _weights(folder: str, library: str, files: Iterable[str]) -> Iterator[str]:
    """Yields the name that the weights of a component have by default, if it has no others."""
    if None not in variants_of(_inside(folder, files)):
        stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
        yield _path(folder, stem + WEIGHTS)


def _inside(folder: str, files: Iterable[str]) -> Iterator[str]:
    """Yields the names of the files directly in this folder."""
    return (
        PurePosixPath(name).name
        for name in files
        if str(PurePosixPath(name).parent).removeprefix(".") == folder
    )


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
