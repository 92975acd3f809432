"""Source → the parts of a step → assembled pipeline; `weights` makes the parts live.

A pipeline is a cheap shell over held components: it is put together anew for every step of every
run, with a scheduler of its own, so nothing a call leaves on it can reach the next one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin
from diffusers.loaders import FluxIPAdapterMixin, IPAdapterMixin

from app.errors import LoadError, first_line, shortened
from app.worker.loading.changes import check_settings
from app.worker.loading.components import (
    block_part,
    component_class,
    image_encoder_part,
    known_part,
    reused_part,
)
from app.worker.loading.local_files import local_folder
from app.worker.loading.parts import Part, Parts, StepParts
from app.worker.loading.quantising import multiplying_quantised
from app.worker.loading.remote_code import PIPELINE, code_folder, load_class
from app.worker.loading.schedulers import changed
from app.worker.loading.single_files import (
    described_by,
    file_part,
    is_loadable,
    local_file,
)
from app.workflow.files import read_object
from app.workflow.installed.blocks import AUTOMATIC
from app.workflow.models.model_index import INDEX, is_component
from app.workflow.models.wanted import weights_of
from app.workflow.plan import PipelineStep
from app.workflow.planning.remote_code import refusal

log = logging.getLogger(__name__)

IP_ADAPTED = (IPAdapterMixin, FluxIPAdapterMixin)
"""Pipelines whose denoiser can look at a picture."""
NOT_IN_CHECKPOINTS = {"safety_checker", "image_encoder"}
"""Components that diffusers leaves out where a whole pipeline is one file."""


def find_parts(
    step: PipelineStep, earlier: Mapping[str, StepParts] = MappingProxyType({})
) -> Parts:
    """What the step needs, from its model's index.

    `earlier` has the parts of the steps before, for what is reused of them. Raises LoadError with a
    sentence.
    """
    if step.modular is None:
        found = _find_parts(step, earlier)
    else:
        # Only now: it imports the blocks of every family.
        from app.worker.loading.modular import find_modular_parts

        found = find_modular_parts(step, earlier)
    return found._replace(parts=multiplying_quantised(found.parts, step))


def _find_parts(step: PipelineStep, earlier: Mapping[str, StepParts]) -> Parts:
    checkpoint, index_folder = _described_in(step)
    index = {} if index_folder is None else _read_index(index_folder, step)
    pipeline_class = _pipeline_class(step, index)
    accepted = inspect.signature(pipeline_class.__init__).parameters
    reused = {
        name: reused_part(name, step, list(accepted)[1:], pipeline_class, earlier[sharing])
        for name, sharing in step.reused.items()
    }
    own: dict[str, type[Any]] = {}
    settings: dict[str, Any] = {}
    for name, parameter in accepted.items():
        if name in reused or name in step.components:
            continue
        if name in step.absent or (checkpoint and name in NOT_IN_CHECKPOINTS):
            settings[name] = None
        elif is_component(entry := index.get(name)):
            if entry == [None, None]:
                settings[name] = None
            else:
                own[name] = component_class(entry, name, step)
        elif name in index:
            if parameter.default is parameter.empty:
                raise LoadError(
                    f"'{step.model}' names no class for its {name}, which"
                    f" {pipeline_class.__name__} needs.",
                    hint=f"Its {INDEX} says {shortened(repr(index[name]))}.",
                )
            settings[name] = index[name]
        elif name == "self" or _may_be_left_out(parameter):
            continue
        elif name in pipeline_class._optional_components:
            settings[name] = None
        elif step.source is None:
            raise LoadError(
                f"{pipeline_class.__name__} needs a {name}, and {step.place} names no model that"
                " it could be taken from.",
                hint=f"Give {step.place}.pipeline a block '{name}', or reuse an earlier step's.",
            )
        else:
            raise LoadError(
                f"'{step.model}' has no {name}, which {pipeline_class.__name__} needs.",
                hint=f"It is a model for {index.get('_class_name')}.",
            )
    if "safety_checker" in settings and "requires_safety_checker" in accepted:
        settings["requires_safety_checker"] = False
    if "add_watermarker" in accepted:
        # Otherwise SDXL's pictures are other ones as soon as a certain package is installed.
        settings["add_watermarker"] = False
    if step.ip_adapter is not None and not issubclass(pipeline_class, IP_ADAPTED):
        raise LoadError(
            f"{pipeline_class.__name__} takes no IP-adapter.",
            hint=f"Remove 'ip_adapter' from {step.place}.pipeline.",
        )
    blocks = {
        name: block_part(name, block, step.model_folders, index_folder and index_folder / name)
        for name, block in step.components.items()
        if name in accepted and name not in reused
    }
    loaded = {
        name: part.with_changes(step.changes_of(name))
        for name, part in {**_own_parts(own, step, checkpoint, index_folder), **blocks}.items()
    }
    found = {**loaded, **reused}
    if step.ip_adapter is not None and "image_encoder" in accepted:
        # As diffusers has it: the adapter's own encoder looks at the picture, where the model has
        # none.
        settings.pop("image_encoder", None)
        found.setdefault("image_encoder", image_encoder_part(step.ip_adapter, step.dtype))
    check_settings(step, {name: part.component_class for name, part in found.items()}, settings)
    parts = tuple(found[name] for name in accepted if name in found)
    # A pipeline without a model lies where its first component does.
    folder = index_folder or (parts[0].folder.parent if parts else Path())
    return Parts(pipeline_class, folder, parts, settings)


def _described_in(step: PipelineStep) -> tuple[Path | None, Path | None]:
    """The file that has the whole pipeline, where it is in one, and the folder of its index; no
    folder where the step names no model."""
    if step.source is None:
        return None, None
    if not step.source.file:
        return None, local_folder(step.source)
    checkpoint = local_file(step.source)
    return checkpoint, described_by(checkpoint, step.config, step.model_folders)


def _own_parts(
    own: Mapping[str, type[Any]], step: PipelineStep, checkpoint: Path | None, index: Path | None
) -> dict[str, Part]:
    """The components that the step's model has of its own."""
    source = step.source
    if source is None or index is None:
        return {}
    if checkpoint is None:
        index = local_folder(source, partial(weights_of, tuple(own), source.variant))
    return {
        name: file_part(name, kind, checkpoint, index / name, step.dtype_of(name), source)
        if checkpoint and is_loadable(kind)
        else known_part(name, kind, index / name, step.dtype_of(name), source)
        for name, kind in own.items()
    }


def _may_be_left_out(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return variadic or parameter.default is not parameter.empty


def assemble(step: PipelineStep, parts: Parts, components: Mapping[str, Any]) -> Any:
    """The step's pipeline over these components (by key), with a scheduler of its own."""
    named = {part.name: _own(components[part.key]) for part in parts.parts}
    for name, change in (
        ("scheduler", step.scheduler),
        ("audio_scheduler", step.audio_scheduler),
    ):
        if change is not None:
            named[name] = changed(step, name, change, named.get(name))
    if step.modular is not None:
        from app.worker.loading.modular import assemble_modular

        return assemble_modular(step, parts, named)
    pipeline = parts.pipeline_class(**parts.settings, **named)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _own(held: Any) -> Any:
    """A scheduler or guider of the step's own, which keeps what a call leaves in it; else what is
    held itself."""
    stateful = isinstance(held, ConfigMixin) and not isinstance(held, torch.nn.Module)
    return type(held).from_config(held.config) if stateful else held


def _read_index(folder: Path, step: PipelineStep) -> dict[str, Any]:
    try:
        return read_object(folder / INDEX)
    except (OSError, ValueError) as error:
        raise LoadError(
            f"'{step.model}' is not a diffusers model.",
            hint=f"Its {INDEX} cannot be read: {first_line(error)}",
        ) from error


def _pipeline_class(step: PipelineStep, index: Mapping[str, Any]) -> type[Any]:
    own = index.get("_class_name")
    module, own_name = own if isinstance(own, list) and len(own) == 2 else (PIPELINE, None)
    if step.code is not None and (code_folder(step.code) / f"{module}.py").is_file():
        folder = code_folder(step.code)
        return load_class(folder, module, own_name, diffusers.DiffusionPipeline)
    name = step.pipeline_class.rpartition(".")[2]
    if name == "DiffusionPipeline" and own_name is not None:
        message, hint = refusal(step.model)
        raise LoadError(message, hint=hint)
    if name == "DiffusionPipeline":
        name = str(index.get("_class_name", ""))
    if (table := AUTOMATIC.get(name)) is not None:
        # Only now: it imports the pipelines of every family.
        from diffusers.pipelines import auto_pipeline

        name = str(index.get("_class_name", ""))
        found = auto_pipeline._get_task_class(getattr(auto_pipeline, table), name, False)
    else:
        found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise LoadError(f"'{step.model}' names '{name}', which is not a diffusers pipeline.")
    return found
