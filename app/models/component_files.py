"""Makes the spec of one component: its files and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from app.dialect.fingerprint import FileIdentity, identify_file, identify_files
from app.dialect.installed.signatures import single_file_classes
from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import DType
from app.dialect.plan_sources import ModelSource
from app.dialect.quantisation import Quantisation
from app.errors import LoadError
from app.models.class_kinds import has_weights
from app.models.quantised import component_bytes, single_file_bytes, stored_quantiser
from app.models.specs import ComponentSpec, StepSpecs

CHECKPOINT = "checkpoint"


def is_in_checkpoints(class_name: str) -> bool:
    """Returns True if a single file may hold such a component's weights."""
    library, _, bare = class_name.rpartition(".")
    return bare in single_file_classes() or (library == "transformers" and has_weights(class_name))


def in_a_folder(
    name: str,
    class_name: str,
    folder: Path,
    dtype: DType,
    source: ModelSource,
    quantisation: Quantisation | None = None,
) -> ComponentSpec:
    """Returns the component whose files are in this folder. Raises LoadError."""
    if not folder.is_dir():
        raise LoadError(
            f"'{source.model}' has no folder for its {name}.",
            hint=f"The model is incomplete: {folder.name}/ is missing.",
        )
    quantiser = quantisation.kind if quantisation else None
    size_bytes = 0
    if has_weights(class_name):
        if (stored := stored_quantiser(folder)) is not None:
            # Weights quantised already stay as they are, as in diffusers and transformers.
            quantisation, quantiser = None, stored
        try:
            size_bytes = component_bytes(folder, source.variant, dtype, quantisation)
        except (ValueError, OSError) as error:
            raise LoadError(
                f"The weights of the {name} of '{source.model}' cannot be read.", hint=f"{error}."
            ) from error
    return ComponentSpec(
        name,
        class_name,
        source,
        folder,
        identify_files(folder, source.variant),
        dtype,
        source.variant,
        size_bytes,
        quantisation,
        quantiser,
    )


def in_a_file(
    name: str,
    class_name: str,
    file: Path,
    folder: Path,
    dtype: DType,
    source: ModelSource,
    quantisation: Quantisation | None = None,
) -> ComponentSpec:
    """Returns a component with weights in a single file and its configuration in this folder."""
    try:
        return ComponentSpec(
            name,
            class_name,
            source,
            folder,
            (identify_file(file), identify_file(folder / "config.json")),
            dtype,
            None,
            single_file_bytes(file, name, dtype, quantisation),
            quantisation,
            quantisation.kind if quantisation else None,
            file,
        )
    except (ValueError, OSError) as error:
        raise unreadable(file.name, error) from error


def identities(spec: ComponentSpec) -> tuple[FileIdentity, ...]:
    """Returns the present identities of the component's files. Raises OSError."""
    if spec.file is None:
        return identify_files(spec.folder, spec.variant)
    if spec.library in ("diffusers", "transformers"):
        return identify_file(spec.file), identify_file(spec.folder / "config.json")
    return tuple(identify_file(file) for file in tool_files(spec.file, spec.tool_files))


def tool_files(first: Path, names: Mapping[str, str]) -> list[Path]:
    """Returns the files of a model that its own library loads, by the library's names."""
    if not names:
        return [first]
    folder = first.parents[next(iter(names.values())).count("/")]
    return [folder / name for name in names.values()]


def undescribed(file: Path, step: PipelineStep) -> StepSpecs:
    """Returns the specs of a whole pipeline in a file of unknown configuration, but known size."""
    named = step.pipeline_class.rpartition(".")[2]
    source = step.named_source
    try:
        size_bytes = single_file_bytes(file, CHECKPOINT, step.dtype, None)
        identity = (identify_file(file),)
    except (ValueError, OSError) as error:
        raise unreadable(file.name, error) from error
    whole = ComponentSpec(
        CHECKPOINT, "", source, Path(), identity, step.dtype, None, size_bytes, file=file
    )
    return StepSpecs(named, Path(), (whole,), is_final=False)


def changed(spec: ComponentSpec, step: PipelineStep) -> ComponentSpec:
    """Returns the component after the step's changes."""
    changes = step.changes_of(spec.name)
    if changes is None:
        return spec
    size_bytes = spec.weight_bytes
    if spec.file is None:
        size_bytes = component_bytes(
            spec.folder, spec.variant, spec.dtype, spec.quantisation, changes
        )
    return replace(spec, changes=changes, weight_bytes=size_bytes)


def config_folder(folder: Path, class_name: str, name: str, file: Path) -> Path:
    """Returns the folder of a component's configuration in a model's folder. Raises LoadError."""
    bare = class_name.rpartition(".")[2]
    for candidate in (folder, folder / name, folder / single_file_classes().get(bare, "")):
        if (candidate / "config.json").is_file():
            return candidate
    raise LoadError(
        f"'{folder.name}' has no configuration of a {bare} for '{file.name}'.",
        hint="Name the model that has as 'config', and its folder as 'subfolder'.",
    )


def unreadable(name: str, error: Exception) -> LoadError:
    return LoadError(f"'{name}' cannot be read.", hint=f"{error}.")
