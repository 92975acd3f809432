"""Modular pipelines: diffusers' blocks over held components, assembled again for every step.

`from_pretrained` and `load_components` are not used: they import what an index names, follow it to
other folders and only warn when a component cannot be loaded. Here the blocks declare the
components they need, and the index has their places; they are loaded like those of any pipeline,
under the same keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import diffusers
from diffusers import ModularPipeline
from diffusers.loaders import IPAdapterMixin
from diffusers.modular_pipelines.modular_pipeline import (
    MODULAR_PIPELINE_MAPPING,
    ModularPipelineBlocks,
)

from app.dialect.files import read_object
from app.dialect.installed.blocks import family_of
from app.dialect.installed.names import MODULAR
from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import ModelSource, ModularSettings
from app.errors import LoadError, nearest
from app.models.adapters import adapters_of
from app.models.model_index import OWN_BLOCKS, ModelIndex
from app.models.pipeline_shapes import Shape, model_index
from app.models.resolve import component_specs
from app.models.specs import Selection, local_folder
from app.worker.loading.changes import check_settings
from app.worker.loading.components import part_of
from app.worker.loading.parts import Part, Parts
from app.worker.loading.remote_code import code_folder, load_class
from app.worker.loading.single_files import read_pickle
from app.worker.modular_blocks import blocks_in, loops_in

CALL = ("output",)
"""Arguments of a call beside those the blocks declare."""


def find_modular_parts(step: PipelineStep, earlier: Mapping[str, Collection[Part]]) -> Parts:
    """Returns the parts the step's blocks need, from the model's index; see `load.find_parts`.

    The blocks are constructed first, since only they declare which components they load.
    """
    folder = local_folder(step.named_source, Selection(whole=True))
    pipeline = _empty(step, model_index(folder, step))
    _check_call(pipeline, step)
    _check_names(step, list(pipeline.pretrained_component_names), pipeline.component_names)
    shape = Shape(type(pipeline).__name__, dict.fromkeys(pipeline.component_names, True))
    specs = component_specs(step, local_folder, earlier, shape=shape, read_pickle=read_pickle)
    specs = replace(specs, **adapters_of(step, local_folder))
    parts = tuple(map(part_of, specs.components))
    unset = dict.fromkeys(pipeline.component_names)
    check_settings(step, {part.name: part.component_class for part in parts}, unset)
    if step.ip_adapters and not isinstance(pipeline, IPAdapterMixin):
        raise LoadError(
            f"{type(pipeline).__name__} takes no IP-adapter.",
            hint=f"Remove 'ip_adapter' from {step.place}.pipeline.",
        )
    # Settings that change the result with the same components.
    settings = {
        "workflow": None if step.modular is None else step.modular.workflow,
        "configs": _configs(pipeline),
        "blocks": f"{type(pipeline._blocks).__module__}.{type(pipeline._blocks).__qualname__}",
    }
    adapters = (specs.loras, specs.textual_inversions, specs.ip_adapters)
    return Parts(type(pipeline), folder, parts, settings, *adapters)


def assemble_modular(step: PipelineStep, parts: Parts, components: Mapping[str, Any]) -> Any:
    """Returns the step's pipeline over these components (by name)."""
    pipeline = _empty(step, model_index(parts.folder, step))
    pipeline.update_components(**components)
    for loop in loops_in(pipeline._blocks):
        loop.set_progress_bar_config(disable=True)
    return pipeline


# --- the shell -----------------------------------------------------------------------------------


def _empty(step: PipelineStep, index: ModelIndex) -> Any:
    """Returns the pipeline with the step's blocks and configs, without components."""
    assert step.modular is not None
    pipeline_class = _pipeline_class(step, index)
    blocks = _blocks(step.modular, pipeline_class, index, step)
    # Only the index's plain values: the pipeline would look for components itself.
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
    """Returns the modular class that diffusers uses for an ordinary pipeline's model."""
    choose = MODULAR_PIPELINE_MAPPING.get(family_of(index.class_name))
    return "" if choose is None else str(choose(index.settings))


def _blocks(
    settings: ModularSettings, pipeline_class: type[Any], index: ModelIndex, step: PipelineStep
) -> Any:
    named = _own_blocks(step.code) or getattr(diffusers, index.blocks_class or "", None)
    is_blocks = isinstance(named, type) and issubclass(named, ModularPipelineBlocks)
    if not is_blocks or getattr(named, "block_classes", None) == []:
        # Blocks assembled by hand are saved under the name of their base class.
        named = getattr(diffusers, pipeline_class.default_blocks_name or "", None)
    if named is None:
        raise LoadError(
            f"The blocks of '{step.model}', {index.blocks_class or 'unnamed'}, are not"
            " diffusers' own."
        )
    # Copied, since many families share inner blocks as module-level objects.
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
    """Returns the blocks that a trusted repository defines, or None."""
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


# --- checks of the document against the blocks ----------------------------------------------------


def _check_call(pipeline: Any, step: PipelineStep) -> None:
    """Raises LoadError for arguments that no block takes; diffusers would ignore them."""
    blocks = pipeline._blocks
    taken = {each.name or each.kwargs_type for each in blocks.inputs}
    at = f"{step.place}.pipeline.arguments"
    for name in step.arguments.keys() - taken - set(CALL):
        raise LoadError(
            f"The blocks of {type(pipeline).__name__} take no '{name}', given in {at}.",
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
    # A block for a component that the workflow does not need is allowed; it loads nothing.
    for name in step.components.keys() - all_names:
        raise LoadError(
            f"The pipeline of {step.place} has no component '{name}'.",
            hint=nearest(name, all_names),
        )
