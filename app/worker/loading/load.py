"""Finds the parts of a step's pipeline, and assembles it; `weights` loads the parts.

A pipeline is a cheap shell over held components. It is assembled again for every step of every run,
with its own scheduler, so that no call can affect the next one.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin
from diffusers.loaders import FluxIPAdapterMixin, IPAdapterMixin, SD3IPAdapterMixin

from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import parameter_of
from app.errors import LoadError
from app.models.adapters import adapters_of
from app.models.pipeline_shapes import OWN_MODULE, Shape, read_pipeline_index
from app.models.resolve import component_specs
from app.models.specs import Selection, StepSpecs, local_folder
from app.worker.loading.changes import check_settings
from app.worker.loading.components import part_of
from app.worker.loading.parts import Part, Parts, StepParts
from app.worker.loading.quantising import with_quantised_matmul
from app.worker.loading.remote_code import code_folder, load_class
from app.worker.loading.schedulers import changed_scheduler
from app.worker.loading.single_files import read_pickle

IP_ADAPTED = (IPAdapterMixin, FluxIPAdapterMixin, SD3IPAdapterMixin)
"""Pipelines that take IP-adapters."""


def find_parts(
    step: PipelineStep,
    earlier: Mapping[str, StepParts] = MappingProxyType({}),
    specs: StepSpecs | None = None,
) -> Parts:
    """Returns the parts the step needs, as `specs` list them; without specs the step is resolved.

    `earlier` has the parts of earlier steps, for components reused from them. Raises LoadError, and
    NotHere for files that are not on this machine.
    """
    before = {name: each.parts for name, each in earlier.items()}
    if specs is not None:
        specs = _with_shared(specs, before)
        found = _parts_of(step, specs, _pipeline_class(step, specs.class_name))
    elif step.modular is None:
        found = _find_parts(step, before)
    else:
        # Imported late: it imports the blocks of every family.
        from app.worker.loading.modular import find_modular_parts

        found = find_modular_parts(step, before)
    return found._replace(parts=with_quantised_matmul(found.parts, step))


def _find_parts(step: PipelineStep, earlier: Mapping[str, Collection[Part]]) -> Parts:
    own_class = None if step.code is None else _own_class(step)
    shape = None if own_class is None else _shape_of(own_class)
    specs = component_specs(step, local_folder, earlier, shape=shape, read_pickle=read_pickle)
    specs = replace(specs, **adapters_of(step, local_folder))
    return _parts_of(step, specs, own_class or _pipeline_class(step, specs.class_name))


def _with_shared(specs: StepSpecs, earlier: Mapping[str, Collection[Part]]) -> StepSpecs:
    """The specs with the very parts of the earlier steps whose components they share."""
    components = (
        each
        if each.shared_by is None
        else replace(
            next(part for part in earlier[each.shared_by] if part.name == each.name),
            shared_by=each.shared_by,
        )
        for each in specs.components
    )
    return replace(specs, components=tuple(components))


def _parts_of(step: PipelineStep, specs: StepSpecs, pipeline_class: type[Any]) -> Parts:
    if step.ip_adapters and not issubclass(pipeline_class, IP_ADAPTED):
        raise LoadError(
            f"{pipeline_class.__name__} takes no IP-adapter.",
            hint=f"Remove 'ip_adapter' from {step.place}.pipeline.",
        )
    parts = tuple(map(part_of, specs.components))
    check_settings(step, {part.name: part.component_class for part in parts}, specs.settings)
    adapters = (specs.loras, specs.textual_inversions, specs.ip_adapters)
    return Parts(pipeline_class, specs.folder, parts, specs.settings, *adapters)


def _pipeline_class(step: PipelineStep, name: str) -> type[Any]:
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise LoadError(f"'{step.model}' names '{name}', which is not a diffusers pipeline.")
    return found


def _own_class(step: PipelineStep) -> type[Any] | None:
    """Returns the pipeline class that a trusted repository defines, or None."""
    assert step.code is not None
    index: dict[str, Any] = {}
    if step.source is not None:
        index = read_pipeline_index(local_folder(step.source, Selection(whole=True)), step)
    own = index.get("_class_name")
    module, name = own if isinstance(own, list) and len(own) == 2 else (OWN_MODULE, None)
    folder = code_folder(step.code)
    if not (folder / f"{module}.py").is_file():
        return None
    return load_class(folder, module, name, diffusers.DiffusionPipeline)


def _shape_of(pipeline_class: type[Any]) -> Shape:
    """Returns the pipeline's components, from its constructor's signature."""
    accepted = list(inspect.signature(pipeline_class.__init__).parameters.values())[1:]
    named = [each for each in accepted if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return Shape(
        pipeline_class.__name__,
        {each.name: each.default is not each.empty for each in named},
        pipeline_class._optional_components,
    )


def assemble(step: PipelineStep, parts: Parts, components: Mapping[str, Any]) -> Any:
    """Returns the step's pipeline over these components (by key), with its own scheduler."""
    named = _by_parameter(parts.parts, components)
    for name, change in (
        ("scheduler", step.scheduler),
        ("audio_scheduler", step.audio_scheduler),
    ):
        if change is not None:
            named[name] = changed_scheduler(step, name, change, named.get(name))
    if step.modular is not None:
        from app.worker.loading.modular import assemble_modular

        return assemble_modular(step, parts, named)
    pipeline = parts.pipeline_class(**parts.settings, **named)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _by_parameter(parts: Collection[Part], components: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the components by the constructor's parameters; several of one are a list, of which
    the pipeline makes one module."""
    named: dict[str, Any] = {}
    for part in parts:
        parameter, own = parameter_of(part.name), _own(components[part.key])
        if parameter == part.name:
            named[parameter] = own
        else:
            named.setdefault(parameter, []).append(own)
    return named


def _own(held: Any) -> Any:
    """Returns a copy of a scheduler or guider, which are stateful; other components as they are."""
    if not isinstance(held, ConfigMixin) or isinstance(held, torch.nn.Module):
        return held
    # A frozen configuration is shared. A held one is never used, so its copy has no state yet; a
    # copy is made in a tenth of the time that another one from its configuration takes.
    config = held.config
    return copy.deepcopy(held, {id(config): config})
