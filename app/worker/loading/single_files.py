"""Components from one file, loaded as diffusers' `from_single_file` loads them.

Such a file has tensors and no configuration. The document may name a model whose configuration it
is (`config`); else diffusers tells by names and shapes of the tensors which published model the
file is of, and that one's configuration is taken: from a models folder, the hub's cache or the hub.
Only the header of the file is read for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import single_file
from diffusers.loaders.single_file_model import FromOriginalModelMixin
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    fetch_diffusers_config,
    infer_diffusers_model_type,
    load_single_file_checkpoint,
)

from app.errors import LoadError, nearest
from app.worker.loading.local_files import local_folder
from app.worker.loading.parts import Part
from app.workflow.files import PICKLE_SUFFIXES, safe_name
from app.workflow.fingerprint import (
    ComponentIdentity,
    component_key,
    identify_file,
    tensor_shapes,
)
from app.workflow.models import wanted
from app.workflow.models.hub import find_in_folders
from app.workflow.models.quantised import single_file_bytes
from app.workflow.plan_settings import DType
from app.workflow.plan_sources import ComponentBlock, ModelSource
from app.workflow.planning.single_files import HOW_TO_ALLOW
from app.workflow.quantisation import Quantisation

GGUF = ".gguf"
STABLE_DIFFUSION = (
    "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "encoder.down.",
)  # fmt: skip
"""How the tensors of Stable Diffusion's checkpoints begin."""


def local_file(source: ModelSource) -> Path:
    """The file itself. Raises LoadError."""
    if source.folder is not None:
        return Path(source.folder) / source.file
    listed: list[str] = []
    choose = wanted.single_file(source.file)

    def chosen(files: Sequence[str]) -> Iterable[str]:
        listed[:] = files
        return choose(files)

    folder = local_folder(source, chosen)
    name = safe_name(source.file, listed, allow_pickles=True) if listed else source.file
    path = folder / (name or source.file)
    if not path.is_file():
        stem = Path(source.file).stem
        pickles = [f for f in listed if Path(f).stem == stem and Path(f).suffix in PICKLE_SUFFIXES]
        raise LoadError(
            f"'{source.model}' has no file '{source.file}'"
            + (f", only '{pickles[0]}', which may hold code." if pickles else "."),
            hint=HOW_TO_ALLOW if pickles else nearest(source.file, listed),
        )
    return path


def described_by(
    file: Path, config: ModelSource | None, models: Iterable[str], own: Path | None = None
) -> Path:
    """The folder with the configuration of the component, or of the pipeline, in this file.

    `models` are folders that are looked in before the hub's cache. `own` is the configuration that
    the pipeline's own model has for such a component: it is taken where the tensors are named as in
    diffusers, from which diffusers tells nothing. Raises LoadError.
    """
    if config is not None:
        return local_folder(config) / config.subfolder
    header = _header(file)
    if own is not None and not _is_recognised(header):
        return own
    published = fetch_diffusers_config(header)
    model = str(published["pretrained_model_name_or_path"])
    found = find_in_folders(model, [Path(folder) for folder in models])
    try:
        folder = local_folder(ModelSource(model=model, folder=str(found) if found else None))
    except LoadError as error:
        raise LoadError(
            f"'{file.name}' has no configuration of its own; by its tensors it is a '{model}'."
            f" {error.message}",
            hint="Name another model, or a folder with its configuration, as 'config' beside"
            " 'from_single_file'.",
            detail=error.detail,
        ) from error
    return folder / str(published.get("subfolder") or "")


def _is_recognised(header: dict[str, Any]) -> bool:
    """Whether diffusers tells by the tensors what they are; what it does not know it takes for a
    Stable Diffusion 1."""
    return infer_diffusers_model_type(header) != "v1" or any(
        name.startswith(STABLE_DIFFUSION) for name in header
    )


def component_folder(folder: Path, component_class: type[Any], name: str, file: Path) -> Path:
    """Where below a model's folder the configuration of its component is. Raises LoadError."""
    candidates = (folder, folder / name, folder / _default_subfolder(component_class))
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate
    raise LoadError(
        f"'{folder.name}' has no configuration of a {component_class.__name__} for '{file.name}'.",
        hint="Name the model that has as 'config', and its folder as 'subfolder'.",
    )


def _default_subfolder(component_class: type[Any]) -> str:
    for mapped, how in single_file_classes().items():
        if issubclass(component_class, getattr(diffusers, mapped)):
            return str(how.get("default_subfolder", ""))
    return ""


@cache
def single_file_classes() -> dict[str, Any]:
    """Diffusers' classes of models that it loads from single files, by name."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    return dict(SINGLE_FILE_LOADABLE_CLASSES)


def is_loadable(component_class: type[Any]) -> bool:
    """Whether the weights of such a component may be in a single file."""
    return issubclass(component_class, FromOriginalModelMixin | transformers.PreTrainedModel)


def load_component(
    file: Path, folder: Path, name: str, component_class: type[Any], **arguments: Any
) -> Any:
    """The component of this name from this file, with the configuration in this folder."""
    if issubclass(component_class, FromOriginalModelMixin):
        return component_class.from_single_file(str(file), config=str(folder), **arguments)
    # Text encoders have no such method of their own: diffusers takes them out of a whole
    # checkpoint when it loads its pipeline, by the function that is called here.
    try:
        return single_file.load_single_file_sub_model(
            library_name=component_class.__module__.partition(".")[0],
            class_name=component_class.__name__,
            name=folder.name,
            checkpoint=load_single_file_checkpoint(str(file), local_files_only=True),
            pipelines=diffusers.pipelines,
            is_pipeline_module=False,
            cached_model_config_path=str(folder.parent),
            local_files_only=True,
            torch_dtype=arguments["torch_dtype"],
        )
    except SingleFileComponentError as error:
        raise LoadError(
            f"'{file.name}' has no {name}.",
            hint=f"Give the {name} as a block of its own, or leave it out with null.",
        ) from error


class _Shape:
    """Stands for a tensor whose shape alone is asked for."""

    def __init__(self, shape: Iterable[int]) -> None:
        self.shape = torch.Size(shape)


def _header(file: Path) -> dict[str, Any]:
    """The shapes of all tensors of the file, by name. Raises LoadError."""
    stamp = identify_file(file).content
    return _read_header(file, stamp)


@cache
def _read_header(file: Path, _stamp: str) -> dict[str, Any]:
    try:
        if file.suffix == GGUF:
            from gguf import GGUFReader

            tensors = GGUFReader(file).tensors
            return {tensor.name: _Shape(tensor.data.shape) for tensor in tensors}
        if file.suffix == ".safetensors":
            return {name: _Shape(shape) for name, (_, shape) in tensor_shapes(file).items()}
        checkpoint = load_single_file_checkpoint(str(file), local_files_only=True)
        return {name: _Shape(tensor.shape) for name, tensor in checkpoint.items()}
    except (ValueError, OSError) as error:
        raise LoadError(f"'{file.name}' cannot be read.", hint=f"{error}.") from error


def file_part(
    name: str,
    component_class: type[Any],
    file: Path,
    folder: Path,
    dtype: DType,
    source: ModelSource,
    quantisation: Quantisation | None = None,
) -> Part:
    """A component whose weights are in a single file, and its configuration in this folder.

    Raises LoadError where the file cannot be read.
    """
    identity = ComponentIdentity(
        class_name=f"{component_class.__module__.partition('.')[0]}.{component_class.__name__}",
        files=(identify_file(file), identify_file(folder / "config.json")),
        dtype=dtype,
        variant=None,
        quantisation=quantisation,
    )
    try:
        size_bytes = single_file_bytes(file, name, dtype, quantisation)
    except (ValueError, OSError) as error:
        raise LoadError(f"'{file.name}' cannot be read.", hint=f"{error}.") from error
    return Part(
        name,
        component_class,
        folder,
        dtype,
        None,
        source.model,
        source.short_name,
        component_key(identity),
        size_bytes,
        quantisation,
        quantisation.kind if quantisation else None,
        file,
    )


def block_in_a_file(
    name: str,
    component_class: type[Any],
    block: ComponentBlock,
    models: Iterable[str],
    own: Path | None,
) -> Part:
    """The component of a block that names a single file.

    `own` is the folder that the pipeline's own model has for such a component, if it has; see
    `described_by`. Raises LoadError.
    """
    file = local_file(block.source)
    is_there = own is not None and (own / "config.json").is_file()
    described = described_by(file, block.config, models, own if is_there else None)
    folder = component_folder(described, component_class, name, file)
    return file_part(
        name, component_class, file, folder, block.dtype, block.source, block.quantisation
    )
