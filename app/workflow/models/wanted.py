"""Which files of the hub's models a plan needs: from repositories' lists and models' indexes alone.

`wanted` is a walk: what an index names is known when the index is here, so whoever walks brings
each model before taking the next step. What only the worker can tell is not among it, and the
worker asks for that: of a modular pipeline's workflow the components (its blocks say which), what a
repository's own code loads, and whose configuration a single file without one has. Each choice of
files is made here for the worker too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from app.workflow.files import read_object, safe_name
from app.workflow.fingerprint import of_variant
from app.workflow.installed.blocks import AUTOMATIC, automatic_class, blocks_of, modular_class_of
from app.workflow.installed.names import MODULAR
from app.workflow.installed.signatures import constructor_names
from app.workflow.models.hub import Choose, Place, is_repository, snapshot_folder
from app.workflow.models.model_index import (
    INDEX,
    IndexedPart,
    ModelIndex,
    holds,
    is_component,
    read_index,
)
from app.workflow.plan import PipelineStep, Plan, SubWorkflowStep, TaskStep
from app.workflow.plan_sources import ComponentBlock, IpAdapterSource, LoraSource, ModelSource


class Wanted(NamedTuple):
    """A model of the hub, and which of its files are wanted beside its text files."""

    source: ModelSource
    choose: Choose


def wanted(plan: Plan, place: Place) -> Iterator[Wanted]:
    """What the plan's steps load of the hub's models; each is taken to be at the place before the
    next is asked for."""
    for step in plan.steps:
        if isinstance(step, SubWorkflowStep):
            continue
        if _is_local(step):
            continue
        found = _of_task(step) if isinstance(step, TaskStep) else _of_pipeline(step, place)
        yield from (each for each in found if each.source.folder is None)


def _is_local(step: PipelineStep | TaskStep) -> bool:
    """Whether nothing of the step can lie anywhere but in folders of this machine."""
    configs = [block.config for block in step.components.values()]
    if isinstance(step, PipelineStep):
        if step.modular is not None:
            # Its index may name other repositories.
            return False
        configs.append(step.config)
    sources = (*step.sources, *configs)
    return all(source is None or source.folder is not None for source in sources)


# --- choices -------------------------------------------------------------------------------------


def nothing(_files: Sequence[str]) -> Iterable[str]:
    """No file beside the text files."""
    return ()


def exactly(names: Sequence[str]) -> Choose:
    """These files."""
    return lambda _files: names


def weights_of(folders: Iterable[str], variant: str | None, files: Sequence[str]) -> Iterator[str]:
    """The weights that a load from these folders reads; "" is the repository's own."""
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        names = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
        weights = (name for name in names if "/" not in name and name.endswith(".safetensors"))
        yield from (prefix + name for name in of_variant(weights, variant))


def block_files(block: ComponentBlock) -> Choose:
    """What a component of its own loads."""
    folders = (block.source.subfolder,) if block.has_weights else ()
    return partial(weights_of, folders, block.source.variant)


def single_file(name: str) -> Choose:
    """The file of this name, or the safetensors file beside one that may hold code."""

    def choose(files: Sequence[str]) -> Iterable[str]:
        chosen = safe_name(name, files, allow_pickles=True)
        return [] if chosen is None else [chosen]

    return choose


def foreign_files(block: ComponentBlock) -> dict[str, ModelSource]:
    """Of a model that its own library loads: what that calls its files, and each one's source."""
    names = block.files or {"": block.source.file}
    return {key: block.source.model_copy(update={"file": file}) for key, file in names.items()}


def lora_files(lora: LoraSource) -> Choose:
    """The file that is named, else all in the LoRA's folder."""
    folder = f"{lora.source.subfolder}/" if lora.source.subfolder else ""

    def choose(files: Sequence[str]) -> Iterable[str]:
        if lora.weight_name is not None:
            return [folder + lora.weight_name]
        below = (name for name in files if name.startswith(folder))
        return [
            name
            for name in below
            if "/" not in name.removeprefix(folder) and name.endswith(".safetensors")
        ]

    return choose


def ip_adapter_files(adapter: IpAdapterSource) -> Choose:
    """The adapter's weights, and its image encoder unless that is a model of its own."""

    def choose(files: Sequence[str]) -> Iterable[str]:
        own = () if adapter.encoder_source else (adapter.image_encoder,)
        path = PurePosixPath(adapter.source.subfolder, adapter.weight_name)
        return [str(path), *weights_of(own, None, files)]

    return choose


IMAGE_ENCODER: Choose = partial(weights_of, ("",), None)
"""Of an image encoder that is a model of its own."""


def code_files(files: Sequence[str]) -> Iterable[str]:
    """A repository's own code."""
    return [name for name in files if name.endswith(".py")]


# --- steps ---------------------------------------------------------------------------------------


def _of_task(step: TaskStep) -> Iterator[Wanted]:
    for block in step.components.values():
        if block.is_foreign:
            for source in foreign_files(block).values():
                yield Wanted(source, single_file(source.file))
        else:
            yield Wanted(block.source, block_files(block))


def _of_pipeline(step: PipelineStep, place: Place) -> Iterator[Wanted]:
    if step.code is not None:
        yield Wanted(step.code, code_files)
    if step.modular is not None:
        yield from _of_modular(step, place)
        accepted = None
    else:
        index: dict[str, Any] = {}
        if step.source is not None and step.source.file:
            yield from _of_file(step.source, step.config)
        elif step.source is not None:
            yield Wanted(step.source, nothing)
            index = _index(folder_of(step.source, place))
        accepted = _accepted(step, index)
        if step.source is not None and accepted is not None:
            given = {*step.reused, *step.components, *step.absent}
            own = [
                name
                for name, entry in index.items()
                if name in accepted - given and is_component(entry) and entry != [None, None]
            ]
            if own:
                yield Wanted(step.source, partial(weights_of, own, step.source.variant))
    for name, block in step.components.items():
        if name in step.reused or (accepted is not None and name not in accepted):
            continue
        if block.source.file:
            yield from _of_file(block.source, block.config)
        else:
            yield Wanted(block.source, block_files(block))
    if (adapter := step.ip_adapter) is not None:
        yield Wanted(adapter.source, ip_adapter_files(adapter))
        looks = accepted is None or "image_encoder" in accepted
        if adapter.encoder_source is not None and looks:
            yield Wanted(adapter.encoder_source, IMAGE_ENCODER)
    for lora in step.loras:
        yield Wanted(lora.source, lora_files(lora))


def _of_file(source: ModelSource, config: ModelSource | None) -> Iterator[Wanted]:
    yield Wanted(source, single_file(source.file))
    if config is not None:
        yield Wanted(config, nothing)


def folder_of(source: ModelSource, place: Place) -> Path | None:
    """Where the model lies there; None where it does not."""
    if source.folder is not None:
        return Path(source.folder)
    return snapshot_folder(place, source.model, source.revision)


def _index(folder: Path | None) -> dict[str, Any]:
    """The index of an ordinary pipeline; empty where it cannot be read, which the load says."""
    try:
        return {} if folder is None else read_object(folder / INDEX)
    except (OSError, ValueError):
        return {}


def _accepted(step: PipelineStep, index: Mapping[str, Any]) -> frozenset[str] | None:
    """The components that the step's pipeline takes; None where its own code says that."""
    if step.code is not None:
        return None
    name, own = step.pipeline_class.rpartition(".")[2], str(index.get("_class_name", ""))
    if name == "DiffusionPipeline":
        name = own
    elif name in AUTOMATIC:
        name = automatic_class(name, own)
    return constructor_names(name)


# --- modular pipelines ---------------------------------------------------------------------------


def _of_modular(step: PipelineStep, place: Place) -> Iterator[Wanted]:
    assert step.modular is not None
    yield Wanted(step.named_source, nothing)
    folder = folder_of(step.named_source, place)
    try:
        index = None if folder is None else read_index(folder, modular=True)
    except (OSError, ValueError):
        # What is wrong with it is said when it is loaded.
        index = None
    if folder is None or index is None:
        return
    loads = step.modular.names or _components(step, index)
    given = {*step.reused, *step.components, *step.absent}
    for name, part in index.parts.items():
        if name in loads and name not in given:
            source = modular_source(name, part, step, folder)
            if source is not None:
                yield Wanted(source, partial(weights_of, (part.subfolder,), source.variant))


def _components(step: PipelineStep, index: ModelIndex) -> tuple[str, ...]:
    """What all blocks of the pipeline load; none where only some of them run, or where they are
    no library's."""
    assert step.modular is not None
    if step.modular.workflow is not None or step.code is not None:
        return ()
    name = step.pipeline_class.rpartition(".")[2]
    if name == MODULAR:
        name = index.class_name if index.is_modular else modular_class_of(index.class_name)
    blocks = blocks_of(name, index.blocks_class)
    return () if blocks is None else blocks.components


def modular_source(
    name: str, part: IndexedPart, step: PipelineStep, folder: Path
) -> ModelSource | None:
    """Where a component that the index in this folder names lies; None where it says no place."""
    assert step.modular is not None
    here = step.named_source.model if step.named_source.folder is None else None
    source = step.modular.sources.get(name)
    if source is None and part.model not in (None, here) and not holds(folder / part.subfolder):
        if not is_repository(str(part.model)):
            return None
        source = ModelSource(
            model=str(part.model), subfolder=part.subfolder, revision=part.revision
        )
    variant = step.named_source.variant or part.variant
    return (source or step.named_source).model_copy(update={"variant": variant})
