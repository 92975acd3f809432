"""Finds the class of a component spec and checks its files, before it is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.auto_factory import _get_model_class

from app.dialect.files import read_object
from app.dialect.fingerprint import FileIdentity, tensor_places, variants_of, weight_files
from app.errors import LoadError, first_line
from app.models.config_check import wrong_in
from app.models.pipeline_shapes import not_loaded
from app.models.quantised import stored_quantiser
from app.models.specs import ComponentSpec
from app.stamps import FileStamp, stamp_of
from app.worker.loading.foreign import foreign_class
from app.worker.loading.parts import Part
from app.worker.loading.processors import PROCESSORS
from app.worker.loading.quantising import check_stored
from app.worker.loading.remote_models import own_model_class


def part_of(spec: ComponentSpec) -> Part:
    """Returns the component with its class, after checking its files. Raises LoadError."""
    if isinstance(spec, Part):
        return spec
    if spec.library not in ("diffusers", "transformers"):
        return Part.of(spec, foreign_class(spec))
    if spec.code:
        return Part.of(spec, own_model_class(spec))
    found = class_of(spec)
    if spec.file is None:
        _check_files(
            spec.name, spec.model, spec.folder, spec.variant, spec.files, has_weights(found)
        )
    return Part.of(spec, found)


def class_of(spec: ComponentSpec) -> type[Any]:
    """Returns the spec's class; for an Auto class the model's own class. Raises LoadError."""
    library, _, name = spec.class_name.rpartition(".")
    if library == "transformers" and name in PROCESSORS:
        return PROCESSORS[name]
    # Resolved specs name only modules of these two libraries.
    found = getattr(importlib.import_module(library), name, None)
    if not isinstance(found, type):
        raise not_loaded(spec.name, spec.model, spec.class_name)
    return _model_class(found, spec) if name.startswith("AutoModel") else found


def has_weights(component_class: type[Any]) -> bool:
    """Returns whether objects of this class (for an Auto class: of what it loads) are modules."""
    return component_class.__name__.startswith("AutoModel") or issubclass(
        component_class, torch.nn.Module
    )


def _model_class(automatic: type[Any], spec: ComponentSpec) -> type[Any]:
    """Returns the class an Auto class uses for this model."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            spec.folder, local_files_only=True, trust_remote_code=False
        )
        found: type[Any] = _get_model_class(config, automatic._model_mapping)
    except Exception as error:
        # An unknown model, remote code, a broken file: transformers raises any kind.
        raise LoadError(
            f"'{spec.model}' is no model that transformers knows for this task"
            f" ({automatic.__name__}).",
            hint=f"{type(error).__name__}: {first_line(error)}",
        ) from error
    return found


@lru_cache(maxsize=512)
def _check_files(
    name: str,
    model: str,
    folder: Path,
    variant: str | None,
    _files: tuple[FileIdentity, ...],
    has_weights: bool,
) -> None:
    """Checked once while the files are the same: every run asks for every component."""
    what = f"The {name} of '{model}'"
    if wrong := wrong_in(folder):
        raise LoadError(f"{what} cannot be loaded.", hint=f"Of config.json {wrong}.")
    if not has_weights:
        return
    if (stored := stored_quantiser(folder)) is not None:
        check_stored(stored, what)
    files = weight_files(folder, variant)
    if not files:
        raise _without_weights(what, folder)
    try:
        _check_whole(folder, files)
    except (ValueError, OSError) as error:
        raise LoadError(
            f"The weights of the {name} of '{model}' cannot be read.", hint=f"{error}."
        ) from error


def _without_weights(what: str, folder: Path) -> LoadError:
    others = sorted(filter(None, variants_of(file.name for file in folder.iterdir())))
    if others:
        return LoadError(
            f"{what} has only {others[0]} weights.",
            hint=f"""Add "variant": "{others[0]}" beside 'model_name'.""",
        )
    return LoadError(
        f"{what} has no safetensors weights.",
        hint="Others are not loaded. Take a model that has, or convert this one.",
    )


def _check_whole(folder: Path, files: Collection[Path]) -> None:
    """Raises ValueError if a weight file is truncated or missing."""
    for file in files:
        here = stamp_of(file)
        end = _last_tensor_ends(file, here)
        if end > here.size_bytes:
            raise ValueError(
                f"'{file.name}' is cut off: {here.size_bytes:,} of {end:,} bytes are here"
            )
    names = {file.name for file in files}
    for index in _indexes(folder, stamp_of(folder)):
        listed = _listed_files(index, stamp_of(index))
        # The index of another variant lists none of these files.
        if listed & names and (missing := sorted(listed - names)):
            raise ValueError(f"'{missing[0]}', which '{index.name}' lists, is missing")


@lru_cache(maxsize=512)
def _last_tensor_ends(file: Path, _stamp: FileStamp) -> int:
    """Returns the end of the last tensor, in bytes from the file's start."""
    return max((end for _, end in tensor_places(file).values()), default=0)


@lru_cache(maxsize=512)
def _indexes(folder: Path, _stamp: FileStamp) -> tuple[Path, ...]:
    """Returns the index files; cached per folder stamp, since every run asks."""
    return tuple(folder.glob("*.safetensors.index*.json"))


@lru_cache(maxsize=64)
def _listed_files(index: Path, _stamp: FileStamp) -> frozenset[str]:
    try:
        listed = read_object(index).get("weight_map")
    except ValueError as error:
        raise ValueError(f"'{index.name}' cannot be read: {error}") from error
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise ValueError(f"'{index.name}' has no map of weights to files")
    return frozenset(listed.values())
