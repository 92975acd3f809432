"""Checks, before anything is loaded, that a step's accelerations can run on this device.

Packages are checked while planning; what the device can do is known to the worker alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
)
from diffusers.models.cache_utils import CacheMixin

from app.dialect.plan import LoadingStep, PipelineStep
from app.dialect.plan_settings import DENOISERS, DType
from app.dialect.setting_blocks import CacheDit
from app.errors import LoadError, first_line
from app.worker.device import Device
from app.worker.loading.parts import Parts, StepParts
from app.worker.tuning.cache_dit import supports

DISPATCH = "dispatch_attention_fn"
"""The function by which a model leaves its attention to a backend."""
CACHED = ("transformer", "transformer_ref")
"""Components that a `cache` may belong to."""
HALF: tuple[DType, ...] = ("float16", "bfloat16")
OWN = "native"


class Kernel(NamedTuple):
    """What an attention backend that is written for NVIDIA's GPUs needs."""

    capability: tuple[int, int]
    """The least compute capability: (8, 0) for an A100."""
    dtypes: tuple[DType, ...] = HALF


KERNELS = {
    "flash": Kernel((8, 0)),
    "flash_varlen": Kernel((8, 0)),
    "_flash_3": Kernel((9, 0)),
    "_flash_varlen_3": Kernel((9, 0)),
    "sage": Kernel((8, 0)),
    "sage_varlen": Kernel((8, 0)),
    "xformers": Kernel((7, 0), (*HALF, "float32")),
    "_native_cudnn": Kernel((8, 0)),
}
"""The backends that no other device has."""


class Hardware(NamedTuple):
    """What is decisive of a device."""

    kind: str
    """torch's type: `cpu`, `cuda`, `mps`, …"""
    name: str
    capability: tuple[int, int] | None = None
    """Of an NVIDIA GPU."""

    @classmethod
    def of(cls, device: Device) -> Hardware:
        """Returns the facts of this device."""
        used = device.torch_device
        is_nvidia = used.type == "cuda" and torch.version.hip is None
        capability = torch.cuda.get_device_capability(used) if is_nvidia else None
        return cls(used.type, device.name, capability)


def unusable_backend(backend: str, dtype: DType, hardware: Hardware) -> str:
    """Returns why this attention backend cannot compute in this dtype on this device, as the end of
    a sentence; "" where it can, as far as is known without its package."""
    kernel = KERNELS.get(backend)
    if kernel is None:
        if backend == "_native_flash" and hardware.kind == "cuda" and dtype not in HALF:
            return f"it computes in {' or '.join(HALF)} on a GPU, not in {dtype}"
        return ""
    if hardware.capability is None:
        return f"it needs an NVIDIA GPU, and the device is {hardware.name}"
    if hardware.capability < kernel.capability:
        major, minor = kernel.capability
        return (
            f"it needs a GPU of compute capability {major}.{minor}, and {hardware.name} has"
            f" {hardware.capability[0]}.{hardware.capability[1]}"
        )
    if dtype not in kernel.dtypes:
        return f"it computes in {' or '.join(kernel.dtypes)}, not in {dtype}"
    return ""


def uncompilable(hardware: Hardware) -> str:
    """Returns why torch.compile cannot be used on this device, as the end of a sentence; "" where
    it can."""
    if hardware.kind == "mps":
        return "torch.compile is not used on an Apple GPU"
    if hardware.kind == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "it needs triton, which is not installed for this GPU"
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  (inductor's own classes, by its version)
        return f"it needs a C++ compiler ({first_line(error)})"
    return ""


def check_accelerations(steps: Iterable[tuple[LoadingStep, StepParts]], device: Device) -> None:
    """Raises LoadError for an acceleration of one of the steps that cannot run on this device."""
    hardware = Hardware.of(device)
    for step, parts in steps:
        if isinstance(step, PipelineStep) and isinstance(parts, Parts):
            check_acceleration(step, parts, hardware)


def check_acceleration(step: PipelineStep, parts: Parts, hardware: Hardware) -> None:
    """Raises LoadError for an acceleration of the step that cannot run here."""
    at = f"{step.place}.pipeline.configuration"
    for backend in sorted(_backends(step)):
        why = _unusable(backend, step, parts, hardware)
        if why:
            raise LoadError(
                f"The attention backend '{backend}' cannot be used here: {why}.",
                hint=f"Remove 'attention_backend' from {at}, or take 'native'.",
            )
    for part in parts.parts:
        name, changes = part.name, part.changes
        if changes is None:
            continue
        stored = changes.casting.storage_dtype if changes.casting else ""
        if stored.startswith("float8") and hardware.kind == "mps":
            raise LoadError(
                f"The {name} cannot be stored as {stored}: an Apple GPU has no such numbers.",
                hint=f"Remove 'enable_layerwise_casting' from {at}, or cast to float16.",
            )
        if changes.compiled and (why := uncompilable(hardware)):
            raise LoadError(
                f"The {name} cannot be compiled here: {why}.",
                hint=f"Remove 'compile' from {at}.components.{name}.",
            )
    if step.cache is not None:
        _check_cache(step, parts, at)


def _backends(step: PipelineStep) -> set[str]:
    named = [step.attention_backend, *(each.attention_backend for each in step.tunings.values())]
    return {backend for backend in named if backend is not None}


def _unusable(backend: str, step: PipelineStep, parts: Parts, hardware: Hardware) -> str:
    denoisers = [part for part in parts.parts if part.name in DENOISERS]
    for dtype in {part.dtype for part in denoisers} or {step.dtype}:
        if why := unusable_backend(backend, dtype, hardware):
            return why
    try:
        _check_attention_backend_requirements(AttentionBackendName(backend))
    except (RuntimeError, ValueError) as error:
        return first_line(error).rstrip(".")
    return ""


def _check_cache(step: PipelineStep, parts: Parts, at: str) -> None:
    cached = [part for part in parts.parts if part.name in CACHED]
    if isinstance(step.cache, CacheDit):
        fits = supports(parts.pipeline_class) and bool(cached)
        compiled = [part.name for part in cached if part.changes and part.changes.compiled]
        if fits and compiled:
            raise LoadError(
                f"The {compiled[0]} cannot be both compiled and cached by 'cache_dit', which"
                " replaces what is compiled.",
                hint=f"Remove 'compile' or 'cache' from {at}.",
            )
    else:
        fits = any(issubclass(part.component_class, CacheMixin) for part in cached)
    if not fits:
        raise LoadError(
            f"The denoiser of {parts.pipeline_class.__name__} has no cache.",
            hint=f"Remove 'cache' from {at}.",
        )


def idle_backend_notices(step: PipelineStep, parts: Parts) -> Iterator[str]:
    """Yields a sentence for an attention backend that no denoiser of the step uses."""
    classes = [part.component_class for part in parts.parts if part.name in DENOISERS]
    for backend in sorted(_backends(step) - {OWN}):
        if classes and not any(map(_dispatches, classes)):
            yield (
                f"attention_backend '{backend}' has no effect: a {classes[0].__name__} computes its"
                " attention with torch's own."
            )


def _dispatches(component_class: type[Any]) -> bool:
    """Returns True if the model's attention is left to a backend."""
    modules = {inspect.getmodule(each) for each in component_class.__mro__}
    return any(
        DISPATCH in inspect.getsource(module)
        for module in modules
        if module is not None and module.__name__.startswith("diffusers.models.")
    )
