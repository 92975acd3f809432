"""Changes to a component at load time: layers removed, casting, memory format, compilation.

They cannot be undone, so a changed component is held under a key of its own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.hooks import apply_layerwise_casting
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import CompileBlock, ComponentChanges
from app.errors import LoadError, nearest

log = logging.getLogger(__name__)


def change(component: torch.nn.Module, changes: ComponentChanges, title: str) -> None:
    """Applies these changes to a component that has just been loaded. Raises LoadError.

    Layers are removed first. Compilation happens at the first call.
    """
    for path, count in changes.kept_layers.items():
        _keep_layers(component, path, count, title)
    for path in changes.removed:
        _remove(component, path, title)
    if changes.channels_last:
        component.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if changes.casting is not None:
        storage = getattr(torch, changes.casting.storage_dtype)
        compute = getattr(torch, changes.casting.compute_dtype)
        # Diffusers' own models know which of their layers must not be cast.
        if isinstance(component, ModelMixin):
            component.enable_layerwise_casting(storage_dtype=storage, compute_dtype=compute)
        else:
            precise = getattr(component, "_keep_in_fp32_modules", None) or ()
            skipped = (*DEFAULT_SKIP_MODULES_PATTERN, *precise)
            apply_layerwise_casting(component, storage, compute, skip_modules_pattern=skipped)
    for path, how in changes.compiled.items():
        _compile(submodule(component, path, title), how, title)


def state_bytes(component: torch.nn.Module) -> int:
    """Returns the bytes of a component's weights; tied weights count once."""
    tensors = component.state_dict().values()
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def submodule(component: torch.nn.Module, path: str, title: str) -> torch.nn.Module:
    """Returns the module at this dotted path, "" for the component itself. Raises LoadError."""
    try:
        return component.get_submodule(path)
    except AttributeError as error:
        names = [name for name, _ in component.named_modules() if name]
        message = f"The {title} has no module '{path}'."
        raise LoadError(message, hint=nearest(path, names)) from error


def _keep_layers(component: torch.nn.Module, path: str, count: int, title: str) -> None:
    layers = submodule(component, path, title)
    if not isinstance(layers, torch.nn.ModuleList):
        raise LoadError(
            f"'{path}' of the {title} is a {type(layers).__name__} and no list of layers.",
            hint="'truncate_layers' needs the path of such a list, as 'encoder.block' of a T5.",
        )
    if count >= len(layers):
        log.warning("The %s has only %d layers in '%s': all stay", title, len(layers), path)
    del layers[count:]


def _remove(component: torch.nn.Module, path: str, title: str) -> None:
    submodule(component, path, title)
    owner, _, name = path.rpartition(".")
    setattr(component.get_submodule(owner), name, torch.nn.Identity())


def _compile(module: torch.nn.Module, how: CompileBlock, title: str) -> None:
    if how.repeated_blocks:
        if not getattr(module, "_repeated_blocks", None):
            raise LoadError(
                f"The {title} declares no repeated blocks.",
                hint="Leave 'repeated_blocks' out to compile all of it.",
            )
        module.compile_repeated_blocks(**how.options)  # type: ignore[operator]
    else:
        # Not `module.compile`, which would compile hooks with it, such as cancel points.
        module.forward = torch.compile(module.forward, **how.options)


def check_settings(
    step: PipelineStep, classes: Mapping[str, type[Any]], absent: Mapping[str, Any]
) -> None:
    """Raises LoadError for a setting that the step's component does not support.

    `classes` are those of the pipeline's components, by name; `absent` are components set to
    None. Called before anything is loaded.
    """
    named = [*step.dtypes, *step.changes, *(key.partition(".")[0] for key in step.tunings)]
    for name in named:
        if name not in classes and name not in absent:
            raise LoadError(
                f"'{step.model}' has no component '{name}', for which"
                f" {step.place}.pipeline.configuration sets something.",
                hint=nearest(name, classes),
            )
    for name, tuning in step.tunings.items():
        if tuning.tiling is not None and name in classes:
            _check_tiling(classes[name], name, tuning.tiling, step)


def _check_tiling(
    component_class: type[Any], name: str, arguments: Mapping[str, Any], step: PipelineStep
) -> None:
    where = f"{step.place}.pipeline.configuration.components.{name}"
    enable = getattr(component_class, "enable_tiling", None)
    if enable is None:
        raise LoadError(
            f"A {component_class.__name__} has no tiling.",
            hint=f"Remove 'enable_tiling' from {where}.",
        )
    accepted = list(inspect.signature(enable).parameters)[1:]
    for argument in arguments:
        if argument not in accepted:
            raise LoadError(
                f"The tiling of a {component_class.__name__} takes no '{argument}', which"
                f" {where}.enable_tiling names.",
                hint=nearest(argument, accepted),
            )
