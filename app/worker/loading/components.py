"""One component of a step: its class, where its files lie, what is known of it before its load."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from app.errors import LoadError, nearest
from app.stamps import FileStamp, stamp_of
from app.worker.loading.local_files import local_folder
from app.worker.loading.parts import Part, StepParts
from app.worker.loading.processors import PROCESSORS
from app.worker.loading.quantising import check_stored
from app.worker.loading.single_files import block_in_a_file
from app.workflow.files import config_of, read_object
from app.workflow.fingerprint import (
    component_key,
    identify,
    tensor_places,
    weight_files,
)
from app.workflow.installed.names import CLASS_RENAMES
from app.workflow.models.config_check import wrong_value
from app.workflow.models.quantised import component_bytes, stored_quantiser
from app.workflow.models.wanted import IMAGE_ENCODER, block_files, ip_adapter_files
from app.workflow.plan import PipelineStep
from app.workflow.plan_settings import DType
from app.workflow.plan_sources import ComponentBlock, IpAdapterSource, ModelSource
from app.workflow.quantisation import Quantisation


def component_class(entry: list[Any], name: str, step: PipelineStep) -> type[Any]:
    """A class of diffusers or transformers; nothing else is ever imported for a model."""
    library, class_name = (str(part) for part in entry) if len(entry) == 2 else ("", str(entry))
    if library == "transformers" and class_name in PROCESSORS:
        return PROCESSORS[class_name]
    homes = {"diffusers": diffusers, "transformers": transformers}
    home = homes.get(library) or getattr(diffusers.pipelines, library, None)
    found = getattr(home, CLASS_RENAMES.get(class_name, class_name), None)
    if not isinstance(found, type):
        raise LoadError(
            f"The {name} of '{step.model}' is a {library}.{class_name}, which is not a"
            " class of diffusers or transformers and is not loaded."
        )
    return found


def known_part(
    name: str,
    component_class: type[Any],
    folder: Path,
    dtype: DType,
    source: ModelSource,
    quantisation: Quantisation | None = None,
) -> Part:
    if not folder.is_dir():
        raise LoadError(
            f"'{source.model}' has no folder for its {name}.",
            hint=f"The model is incomplete: {folder.name}/ is missing.",
        )
    if wrong := wrong_value(config_of(folder)):
        raise LoadError(
            f"The {name} of '{source.model}' cannot be loaded.", hint=f"Of config.json {wrong}."
        )
    quantiser = quantisation.kind if quantisation else None
    weighs = has_weights(component_class)
    if weighs and (stored := stored_quantiser(folder)) is not None:
        # What is quantised already stays as it is: so diffusers and transformers have it.
        quantisation, quantiser = None, check_stored(stored, f"The {name} of '{source.model}'")
    class_name = f"{component_class.__module__.partition('.')[0]}.{component_class.__name__}"
    identity = identify(
        class_name, folder, dtype=dtype, variant=source.variant, quantisation=quantisation
    )
    try:
        size_bytes = 0
        if weighs:
            _check_whole(folder, weight_files(folder, source.variant))
            size_bytes = component_bytes(folder, source.variant, dtype, quantisation)
    except (ValueError, OSError) as error:
        raise LoadError(
            f"The weights of the {name} of '{source.model}' cannot be read.", hint=f"{error}."
        ) from error
    return Part(
        name,
        component_class,
        folder,
        dtype,
        source.variant,
        source.model,
        source.short_name,
        component_key(identity),
        size_bytes,
        quantisation,
        quantiser,
    )


def _check_whole(folder: Path, files: Collection[Path]) -> None:
    """Raise ValueError where one of these weight files is cut off, or another one is missing."""
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
        # The index of another variant lists none of them.
        if listed & names and (missing := sorted(listed - names)):
            raise ValueError(f"'{missing[0]}', which '{index.name}' lists, is missing")


@lru_cache(maxsize=512)
def _last_tensor_ends(file: Path, _stamp: FileStamp) -> int:
    """Bytes from the file's start; read again when the file has changed."""
    return max((end for _, end in tensor_places(file).values()), default=0)


@lru_cache(maxsize=512)
def _indexes(folder: Path, _stamp: FileStamp) -> tuple[Path, ...]:
    """Looked for again when files have come or gone: every run asks for every component."""
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


def has_weights(component_class: type[Any]) -> bool:
    """Whether objects of this class are modules; of an Auto class, what it makes."""
    return component_class.__name__.startswith("AutoModel") or issubclass(
        component_class, torch.nn.Module
    )


def block_part(
    name: str,
    block: ComponentBlock,
    model_folders: Iterable[str] = (),
    own: Path | None = None,
) -> Part:
    """The component that the block names; where it is in a single file see `block_in_a_file`."""
    found = block_class(block)
    if block.source.file:
        return block_in_a_file(name, found, block, model_folders, own)
    return known_part(
        name, found, block_folder(block), block.dtype, block.source, block.quantisation
    )


def block_class(block: ComponentBlock) -> type[Any]:
    """The class that the block names."""
    library, _, class_name = block.class_name.rpartition(".")
    if library == "transformers" and class_name in PROCESSORS:
        return PROCESSORS[class_name]
    # The planner has let through no other module than these two, and those of diffusers' pipelines.
    found: type[Any] = getattr(importlib.import_module(library), class_name)
    return found


def block_folder(block: ComponentBlock) -> Path:
    """Where the block's files lie; see `local_folder`."""
    return local_folder(block.source, block_files(block)) / block.source.subfolder


def image_encoder_part(adapter: IpAdapterSource, dtype: DType) -> Part:
    encoder, source = transformers.CLIPVisionModelWithProjection, adapter.encoder_source
    if source is None:
        folder = ip_adapter_folder(adapter) / adapter.image_encoder
        return known_part("image_encoder", encoder, folder, dtype, adapter.source)
    folder = local_folder(source, IMAGE_ENCODER)
    return known_part("image_encoder", encoder, folder, dtype, source)


def ip_adapter_folder(adapter: IpAdapterSource) -> Path:
    """Where the adapter lies, with its weights and its image encoder; see `local_folder`."""
    return local_folder(adapter.source, ip_adapter_files(adapter))


def reused_part(
    name: str,
    step: PipelineStep,
    accepted: Collection[str],
    pipeline_class: type[Any],
    shared: StepParts,
) -> Part:
    """The very component of the step that shares it: under the same key, so it is held once."""
    where = f"{step.place}.pipeline"
    names = [part.name for part in shared.parts]
    if name not in names:
        raise LoadError(
            f"The step whose '{name}' is reused in {where} has no such component.",
            hint=nearest(name, names),
        )
    if name not in accepted:
        raise LoadError(
            f"{pipeline_class.__name__} takes no '{name}', which {where} reuses.",
            hint=nearest(name, accepted),
        )
    return shared.parts[names.index(name)]
