"""Modular pipelines: diffusers' blocks over held components, put together anew for every step.

`from_pretrained` and `load_components` are not used: they import what an index names, follow it to
other folders and only warn when a component cannot be loaded. Here the blocks say which components
they need and the index where those lie; they are loaded like those of any pipeline, under the same
keys, and handed to the blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ModularPipeline
from diffusers.loaders import IPAdapterMixin
from diffusers.modular_pipelines.modular_pipeline import (
    MODULAR_PIPELINE_MAPPING,
    ModularPipelineBlocks,
)

from app.errors import LoadError, first_line, nearest
from app.worker.loading.changes import check_settings
from app.worker.loading.components import (
    block_part,
    component_class,
    known_part,
    reused_part,
)
from app.worker.loading.local_files import local_folder
from app.worker.loading.parts import Part, Parts, StepParts
from app.worker.loading.remote_code import code_folder, load_class
from app.worker.modular_blocks import blocks_in, loops_in
from app.workflow.files import read_object
from app.workflow.installed.blocks import family_of
from app.workflow.installed.names import MODULAR
from app.workflow.models.model_index import (
    INDEXES,
    OWN_BLOCKS,
    IndexedPart,
    ModelIndex,
    read_index,
)
from app.workflow.models.wanted import modular_source, weights_of
from app.workflow.plan import PipelineStep
from app.workflow.plan_sources import ModelSource, ModularSettings
from app.workflow.planning.remote_code import refusal

CALL = ("output",)
"""What a call takes beside what the blocks declare."""


def find_modular_parts(step: PipelineStep, earlier: Mapping[str, StepParts]) -> Parts:
    """What the step's blocks need, from the model's index; see `loading.find_parts`."""
    assert step.modular is not None
    folder = local_folder(step.named_source)
    index = _index_in(folder, step)
    pipeline = _empty(step, index)
    _check_call(pipeline, step)
    expected = list(pipeline.pretrained_component_names)
    _check_names(step, expected, pipeline.component_names)
    reused = {
        name: reused_part(name, step, pipeline.component_names, type(pipeline), earlier[sharing])
        for name, sharing in step.reused.items()
    }
    blocks = {
        name: block_part(name, block, step.model_folders)
        for name, block in step.components.items()
        if name in pipeline.component_names and name not in reused
    }
    given = {*reused, *blocks, *step.absent}
    own = {
        name: index.parts[name]
        for name in pipeline.component_names
        if name in index.parts
        and name not in given
        and (step.modular.names is None or name in step.modular.names)
    }
    parts = {name: _own_part(name, part, step, folder, own) for name, part in own.items()}
    loaded = {
        name: part.with_changes(step.changes_of(name)) for name, part in {**parts, **blocks}.items()
    }
    found = {**loaded, **reused}
    unset = dict.fromkeys(pipeline.component_names)
    check_settings(step, {name: part.component_class for name, part in found.items()}, unset)
    if step.ip_adapter is not None and not isinstance(pipeline, IPAdapterMixin):
        raise LoadError(
            f"{type(pipeline).__name__} takes no IP-adapter.",
            hint=f"Remove 'ip_adapter' from {step.place}.pipeline.",
        )
    ordered = tuple(found[name] for name in pipeline.component_names if name in found)
    # What would be another result of the same components.
    settings = {
        "workflow": step.modular.workflow,
        "configs": _configs(pipeline),
        "blocks": f"{type(pipeline._blocks).__module__}.{type(pipeline._blocks).__qualname__}",
    }
    return Parts(type(pipeline), folder, ordered, settings)


def assemble_modular(step: PipelineStep, parts: Parts, components: Mapping[str, Any]) -> Any:
    """The step's pipeline over these components (by name)."""
    pipeline = _empty(step, _index_in(parts.folder, step))
    pipeline.update_components(**components)
    for loop in loops_in(pipeline._blocks):
        loop.set_progress_bar_config(disable=True)
    return pipeline


# --- the shell -----------------------------------------------------------------------------------


def _index_in(folder: Path, step: PipelineStep) -> ModelIndex:
    brings_blocks = (folder / OWN_BLOCKS).is_file()
    if brings_blocks and step.code is None:
        message, hint = refusal(step.model)
        raise LoadError(message, hint=hint)
    if brings_blocks and not any((folder / each).is_file() for each in INDEXES):
        # Blocks without components need no index.
        return ModelIndex(MODULAR, "", True, {}, frozenset(), {})
    try:
        return read_index(folder, modular=True)
    except (OSError, ValueError) as error:
        raise LoadError(
            f"'{step.model}' is not a diffusers model.",
            hint=f"Its index cannot be read: {first_line(error)}",
        ) from error


def _empty(step: PipelineStep, index: ModelIndex) -> Any:
    """The pipeline with the step's blocks and configs, without its components."""
    assert step.modular is not None
    pipeline_class = _pipeline_class(step, index)
    blocks = _blocks(step.modular, pipeline_class, index, step)
    # Of the index the values alone: components it would look for itself.
    pipeline = pipeline_class(blocks=blocks, modular_config_dict=dict(index.settings))
    known = list(pipeline._config_specs)
    for name in step.modular.configs:
        if name not in known:
            raise LoadError(
                f"The pipeline has no config '{name}', which {step.place} sets.",
                hint=nearest(name, known) or f"There is: {', '.join(known) or 'none'}.",
            )
    pipeline.update_components(**step.modular.configs)
    return pipeline


def _pipeline_class(step: PipelineStep, index: ModelIndex) -> type[Any]:
    name = step.pipeline_class.rpartition(".")[2]
    if name == MODULAR:
        name = index.class_name if index.is_modular else _modular_class(index)
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, ModularPipeline)):
        raise LoadError(f"There is no modular pipeline for '{step.model}', a {index.class_name}.")
    return found


def _modular_class(index: ModelIndex) -> str:
    """What diffusers takes for a model that was published for an ordinary pipeline."""
    choose = MODULAR_PIPELINE_MAPPING.get(family_of(index.class_name))
    return "" if choose is None else str(choose(index.settings))


def _blocks(
    settings: ModularSettings, pipeline_class: type[Any], index: ModelIndex, step: PipelineStep
) -> Any:
    named = _own_blocks(step.code) or getattr(diffusers, index.blocks_class or "", None)
    is_blocks = isinstance(named, type) and issubclass(named, ModularPipelineBlocks)
    if not is_blocks or getattr(named, "block_classes", None) == []:
        # Blocks that were put together by hand are saved under the name of their base class.
        named = getattr(diffusers, pipeline_class.default_blocks_name or "", None)
    if named is None:
        raise LoadError(
            f"The blocks of '{step.model}', {index.blocks_class or 'unnamed'}, are not"
            " diffusers' own."
        )
    # Of many families the inner blocks are objects of the library's modules, and shared by all.
    blocks = deepcopy(named())
    if settings.workflow is None:
        return blocks
    known = list(blocks._workflow_map or ())
    if settings.workflow not in known:
        raise LoadError(
            f"'{step.model}' has no workflow '{settings.workflow}'.",
            hint=nearest(settings.workflow, known) or f"There is: {', '.join(known) or 'none'}.",
        )
    return blocks.get_workflow(settings.workflow)


def _own_blocks(code: ModelSource | None) -> type[Any] | None:
    """The blocks that the repository whose code may run defines itself; None where it has none."""
    if code is None or not (folder := code_folder(code)).joinpath(OWN_BLOCKS).is_file():
        return None
    try:
        named = read_object(folder / OWN_BLOCKS)["auto_map"]["ModularPipelineBlocks"]
        module, _, name = str(named).partition(".")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LoadError(f"The {OWN_BLOCKS} of '{code.model}' names no blocks.") from error
    return load_class(folder, module, name, ModularPipelineBlocks)


def _configs(pipeline: Any) -> dict[str, Any]:
    return {name: spec.default for name, spec in pipeline._config_specs.items()}


# --- what stands in the document, against what the blocks declare --------------------------------


def _check_call(pipeline: Any, step: PipelineStep) -> None:
    """Refuse arguments that no block takes: diffusers would ignore them."""
    blocks = pipeline._blocks
    taken = {each.name or each.kwargs_type for each in blocks.inputs}
    at = f"{step.place}.pipeline.arguments"
    for name in step.arguments.keys() - taken - set(CALL):
        raise LoadError(
            f"The blocks of {type(pipeline).__name__} take no '{name}', which stands in {at}.",
            hint=nearest(name, [*taken, *CALL]),
        )
    made = taken | {each.name for block in blocks_in(blocks) for each in block.intermediate_outputs}
    for name in _outputs_asked_for(step):
        if name not in made:
            raise LoadError(
                f"The blocks of {type(pipeline).__name__} make no '{name}', which {at}.output"
                " asks for.",
                hint=nearest(name, made),
            )


def _outputs_asked_for(step: PipelineStep) -> list[str]:
    wanted = getattr(step.arguments.get("output"), "value", None)
    return [wanted] if isinstance(wanted, str) else list(wanted or ())


def _check_names(step: PipelineStep, expected: list[str], all_names: list[str]) -> None:
    assert step.modular is not None
    for name in step.modular.names or ():
        if name not in expected:
            raise LoadError(
                f"The pipeline of {step.place} loads no component '{name}'.",
                hint=nearest(name, expected),
            )
    # A block for a component the workflow does not need loads nothing, as a name of a dtype.
    for name in step.components.keys() - all_names:
        raise LoadError(
            f"The pipeline of {step.place} has no component '{name}'.",
            hint=nearest(name, all_names),
        )


# --- components ----------------------------------------------------------------------------------


def _own_part(
    name: str,
    part: IndexedPart,
    step: PipelineStep,
    folder: Path,
    own: Mapping[str, IndexedPart],
) -> Part:
    """One of the components that the index names."""
    assert step.modular is not None
    source = modular_source(name, part, step, folder)
    if source is None:
        raise LoadError(
            f"The {name} of '{step.model}' is said to lie in '{part.model}', which is"
            " neither its own folder nor 'owner/name' of the hub."
        )
    # What lies beside it is asked for at once.
    beside = (each.subfolder for each in own.values() if each.model == part.model)
    is_own = source == step.named_source.model_copy(update={"variant": source.variant})
    subfolders = (*beside,) if is_own else (part.subfolder,)
    weights = partial(weights_of, subfolders, source.variant)
    place = local_folder(source, weights) / part.subfolder
    entry = [part.library, part.class_name] if part.class_name else _named_in(place)
    kind = component_class(entry, name, step)
    quantised = step.modular.quantised.get(name)
    return known_part(name, kind, place, step.dtype_of(name), source, quantised)


def _named_in(folder: Path) -> list[str]:
    """The class that the component's own configuration names, as diffusers' models' do."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        config = read_object(folder / "config.json")
        return ["diffusers", str(config.get("_class_name", ""))]
    return ["", "class that nothing names"]
