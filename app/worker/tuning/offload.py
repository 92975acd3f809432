"""Device placement of components for one step, with or without offload."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module

from app.dialect.offloads import OFFLOADS
from app.dialect.plan import PipelineStep
from app.worker.device import Device

WORK_TOGETHER = {"language_model", "rvq_depth_decoder"}
"""Components of MiniMax Music 3 that its blocks alternate for every frame, so both must be on the
device."""


@contextlib.contextmanager
def on_device(pipeline: Any, step: PipelineStep, device: Device) -> Iterator[None]:
    """Moves all components to the device inside, or installs the step's offload hooks."""
    with contextlib.ExitStack() as given_back:
        if step.modular is not None:
            if step.offload is not None:
                given_back.enter_context(_offloading_modular(pipeline, step, device))
        elif step.offload is not None:
            given_back.callback(pipeline.remove_all_hooks)
            resolve_name(OFFLOADS[step.offload].enable)(pipeline, step, device)
        if step.offload is None:
            _move(pipeline, device)
        if step.modular is None:
            # diffusers resets stateful caches and hooks only at the end of a normal call.
            given_back.callback(pipeline.maybe_free_model_hooks)
        yield


def one_component(pipeline: Any, _step: PipelineStep, device: Device) -> None:
    """Has one component at a time on the device."""
    pipeline.enable_model_cpu_offload(device=device.torch_device)


def one_layer(pipeline: Any, step: PipelineStep, device: Device) -> None:
    """Has one layer at a time on the device."""
    # Set on the instance: diffusers' list belongs to the class.
    left = [*pipeline._exclude_from_cpu_offload, *step.never_offloaded]
    pipeline._exclude_from_cpu_offload = left
    pipeline.enable_sequential_cpu_offload(device=device.torch_device)


@contextlib.contextmanager
def _offloading_modular(pipeline: Any, step: PipelineStep, device: Device) -> Iterator[None]:
    """Offloads the components of a modular pipeline, for which diffusers has no methods.

    Its blocks call components in an undeclared order, so each call offloads all others; after the
    step all of them are in RAM.
    """
    from diffusers.modular_pipelines.components_manager import custom_offload_with_hook

    modules = {
        name: component
        for name, component in pipeline.components.items()
        if isinstance(component, torch.nn.Module)
    }
    on = torch.device(device.torch_device.type, device.torch_device.index or 0)
    with contextlib.ExitStack() as given_back:
        hooks = []
        for name, module in modules.items():
            if step.offload == "sequential" and name in step.never_offloaded:
                module.to(on)
            elif step.offload == "sequential":
                given_back.callback(remove_hook_from_module, module, recurse=True)
                cpu_offload(module, on, offload_buffers=len(module._parameters) > 0)
            else:
                hook = custom_offload_with_hook(name, module, on)
                given_back.callback(hook.remove)
                given_back.callback(hook.offload)
                hooks.append(hook)
        for hook in hooks:
            for other in hooks:
                together = {hook.model_id, other.model_id} <= WORK_TOGETHER
                if other is not hook and not together:
                    hook.add_other_hook(other)
        yield


def _move(pipeline: Any, device: Device) -> None:
    # `pipeline.to` takes ten milliseconds even when nothing has to move.
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            first = next(component.parameters(), None)
            if first is not None and first.device != device.torch_device:
                component.to(device.torch_device)
