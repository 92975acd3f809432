"""Settings of single components for one step: tiling, slicing, chunking, attention."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import Tuning
from app.errors import LoadError, first_line
from app.worker.loading.changes import submodule

PLAIN = (bool, int, float, str, tuple, type(None))


@contextlib.contextmanager
def using_component_settings(pipeline: Any, step: PipelineStep) -> Iterator[None]:
    """Applies the step's component settings inside. Raises LoadError for an unsupported one."""
    with contextlib.ExitStack() as given_back:
        if step.attention_slicing:
            for component in pipeline.components.values():
                if isinstance(component, torch.nn.Module):
                    given_back.callback(attention_of(component))
            pipeline.enable_attention_slicing()
        for key, tuning in step.tunings.items():
            name, _, path = key.partition(".")
            component = getattr(pipeline, name, None)
            if component is not None:
                module = submodule(component, path, name)
                _tune(module, tuning, f"{step.place}.pipeline.configuration", key, given_back)
        yield


def _tune(
    module: torch.nn.Module, tuning: Tuning, where: str, key: str, given_back: contextlib.ExitStack
) -> None:
    kind = type(module).__name__
    if tuning.attention_processor is not None:
        processor = _processor(tuning.attention_processor)
        _require(module, "set_attn_processor", f"A {kind} takes no attention processor.", where)
        given_back.callback(attention_of(module))
        module.set_attn_processor(processor)  # type: ignore[operator]
    if tuning.attention_backend is not None:
        given_back.callback(attention_of(module))
        _set_backend(module, tuning.attention_backend, key)
    if tuning.forward_chunking:
        _require(module, "enable_forward_chunking", f"A {kind} has no forward chunking.", where)
        for each in module.modules():
            if hasattr(each, "set_chunk_feed_forward"):
                given_back.callback(_plain_attributes_of(each))
        module.enable_forward_chunking()  # type: ignore[operator]
    if tuning.tiling is not None:
        _require(module, "enable_tiling", f"A {kind} has no tiling.", where)
        given_back.callback(_plain_attributes_of(module))
        module.enable_tiling(**tuning.tiling)  # type: ignore[operator]


def _require(module: torch.nn.Module, method: str, message: str, where: str) -> None:
    if not hasattr(module, method):
        raise LoadError(message, hint=f"Remove what asks for it from {where}.")


def _processor(named: str) -> Any:
    """Returns an attention processor of diffusers; planning has checked the name."""
    module, _, name = named.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)()
    except (TypeError, ImportError) as error:
        raise LoadError(
            f"The attention processor '{name}' cannot be used here.", hint=first_line(error)
        ) from error


def _set_backend(module: torch.nn.Module, backend: str, key: str) -> None:
    """Sets the backend of this module only; diffusers would change the process's too."""
    active = _AttentionBackendRegistry._active_backend
    try:
        ModelMixin.set_attention_backend(module, backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise LoadError(
            f"The attention backend '{backend}' of '{key}' cannot be used here.",
            hint=first_line(error),
        ) from error
    finally:
        _AttentionBackendRegistry._active_backend = active


def attention_of(component: torch.nn.Module) -> Callable[[], None]:
    """Returns a function that restores the component's present attention processors."""
    processors = [
        (module, module.processor, getattr(module.processor, "_attention_backend", None))
        for module in component.modules()
        if hasattr(module, "set_processor")
    ]

    def put_back() -> None:
        for module, processor, backend in processors:
            if module.processor is not processor:
                module.set_processor(processor)  # type: ignore[operator]
            if hasattr(processor, "_attention_backend"):
                processor._attention_backend = backend

    return put_back


def _plain_attributes_of(module: torch.nn.Module) -> Callable[[], None]:
    """Returns a function that restores the module's plain attributes: tile sizes, switches."""
    plain = {name: value for name, value in vars(module).items() if isinstance(value, PLAIN)}

    def put_back() -> None:
        for name in [name for name in vars(module) if isinstance(vars(module)[name], PLAIN)]:
            if name not in plain:
                delattr(module, name)
        for name, value in plain.items():
            setattr(module, name, value)

    return put_back
