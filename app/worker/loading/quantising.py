"""Quantised components: the library's configuration to load one, and its size in memory.

Only its library can load a quantised component: its weights are not pages of a file and its
parameters have the quantiser's own classes, so `origins` and `converted` do not apply; an evicted
one is loaded again. It is loaded to the device layer by layer; the full-precision weights are never
in memory together.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers

from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import parameter_of
from app.dialect.quantisation import QUANTISERS, Given, Quantisation, QuantiserKind
from app.errors import LoadError, nearest
from app.packages import Package
from app.planning.quantisers import STORED
from app.worker.device import Device, seeded

if TYPE_CHECKING:
    from app.worker.loading.parts import Part

log = logging.getLogger(__name__)

TRITON = Package("triton", "triton")
PACKAGES = {each.kind: each.package for each in QUANTISERS.values()}


def check_stored(stored: str, what: str) -> QuantiserKind:
    """Returns the quantiser of published weights. Raises LoadError if it is not installed."""
    package = STORED.get(stored)
    if package is None:
        raise LoadError(
            f"{what} is quantised with '{stored}', which is not supported.",
            hint=f"Those of {', '.join(STORED)} are loaded.",
        )
    if package.is_missing:
        message = f"{what} is quantised with {package.name}, which is not installed."
        raise LoadError(message, hint=package.how_to_add)
    return next(kind for kind, its_package in PACKAGES.items() if its_package == package)


def quantised_loading(part: Part, device: Device) -> dict[str, Any]:
    """Returns arguments of `from_pretrained` for a quantised part; empty for others."""
    if part.quantiser is None:
        return {}
    _import(part.quantiser, device)
    arguments: dict[str, Any] = {}
    if device.torch_device.type != "cpu":
        arguments["device_map"] = {"": device.torch_device}
    if part.quantisation is not None:
        arguments["quantization_config"] = configuration(part.quantisation, part.library)
    return arguments


@contextlib.contextmanager
def seeded_load(part: Part, device: Device) -> Iterator[None]:
    """Seeds quantisers that draw random numbers, so that every load is the same."""
    if part.quantiser is None:
        yield
        return
    with seeded(0, device.torch_device):
        yield


def finish_loading(component: Any, part: Part, device: Device) -> Any:
    """Returns the loaded component, ready to be called."""
    if part.quantiser == "bitsandbytes" and device.torch_device.type == "cpu":
        from app.compat.worker.bitsandbytes_on_cpu import keep_plain_layout

        keep_plain_layout(component)
    if part.quantiser == "quanto":
        from app.compat.worker.quanto_bits import leave_inference_mode

        leave_inference_mode(component)
    if part.sdnq_matmul:
        from sdnq.loader import apply_sdnq_options_to_model

        apply_sdnq_options_to_model(component, use_quantized_matmul=True)
    return component


def with_quantised_matmul(parts: Sequence[Part], step: PipelineStep) -> tuple[Part, ...]:
    """Returns the parts, with SDNQ's quantised matmul enabled as the document says.

    Such a part is another component, since its weights have another layout. Without a GPU and
    triton it would be slower, so the setting is skipped with a warning. Raises LoadError for a
    component that the step does not have.
    """
    wanted = step.sdnq_matmul
    names = [parameter_of(part.name) for part in parts]
    for name in wanted:
        if name not in names:
            place = f"{step.place}.pipeline.configuration.sdnq_optimize"
            message = f"The pipeline has no component '{name}', which {place} names."
            raise LoadError(message, hint=nearest(name, names))
    if wanted and not (torch.cuda.is_available() and not TRITON.is_missing):
        log.warning("sdnq_optimize is skipped: it needs a GPU and triton")
        return tuple(parts)
    return tuple(
        replace(part, sdnq_matmul=True)
        if parameter_of(part.name) in wanted and part.quantiser == "sdnq"
        else part
        for part in parts
    )


def configuration(quantisation: Quantisation, library: str) -> Any:
    """Returns the quantiser's configuration object of `diffusers` or `transformers`."""
    home = {"diffusers": diffusers, "transformers": transformers}[library]
    return resolve_name(quantisation.quantiser.configuration)(home, quantisation.arguments)


def bitsandbytes(home: Any, given: Given) -> Any:
    """Makes the configuration of bitsandbytes."""
    return home.BitsAndBytesConfig(**given)


def torchao(home: Any, given: Given) -> Any:
    """Makes the configuration of torchao."""
    from torchao import quantization

    scheme = getattr(quantization, str(given["quant_type"]))()
    return home.TorchAoConfig(**{**given, "quant_type": scheme})


def gguf(home: Any, given: Given) -> Any:
    """Makes the configuration of GGUF."""
    compute_dtype = getattr(torch, str(given.get("compute_dtype", "float32")))
    return home.GGUFQuantizationConfig(compute_dtype=compute_dtype)


def sdnq(_home: Any, given: Given) -> Any:
    """Makes the configuration of SDNQ."""
    from sdnq import SDNQConfig

    return SDNQConfig(**given)


def quanto(home: Any, given: Given) -> Any:
    """Makes the configuration of quanto."""
    name = "weights" if home is transformers else "weights_dtype"
    return home.QuantoConfig(**{name if k == "weights_dtype" else k: v for k, v in given.items()})


def _import(kind: QuantiserKind, device: Device) -> None:
    """Imports the quantiser's package, with its settings for this device.

    SDNQ registers itself with both libraries on import; without it transformers loads its quantised
    weights wrongly.
    """
    if kind == "sdnq" and device.torch_device.type == "cpu":
        # SDNQ would compile a C++ kernel for every weight shape: 4 to 8 s for the two blocks of a
        # FLUX stand-in.
        os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
    importlib.import_module(PACKAGES[kind].module)
    if kind == "bitsandbytes" and device.torch_device.type == "cpu":
        from app.compat.worker.bitsandbytes_on_cpu import allow_cpu

        allow_cpu()


# --- sizes ---------------------------------------------------------------------------------------


def held_bytes(module: torch.nn.Module) -> int:
    """Returns the bytes of the module's weights, with the quantiser's scales and tables; `nbytes`
    of a quantised tensor is its unquantised size."""
    held = [*module.parameters(), *module.buffers()]
    tensors = [
        *(tensor for each in held for tensor in _plain_tensors(each)),
        *(tensor for layer in module.modules() for tensor in _beside(layer)),
    ]
    return sum({(t.device, t.data_ptr(), t.nbytes): t.nbytes for t in tensors}.values())


def _plain_tensors(held: torch.Tensor) -> Iterator[torch.Tensor]:
    if hasattr(held, "__tensor_flatten__"):
        names, _ = held.__tensor_flatten__()
        for name in names:
            yield from _plain_tensors(getattr(held, name))
        return
    yield held
    yield from _beside(held)


def _beside(holder: Any) -> Iterator[torch.Tensor]:
    """Yields tensors in attributes of bitsandbytes parameters and layers, recursively."""
    for value in vars(holder).values():
        if isinstance(value, torch.Tensor):
            yield from _plain_tensors(value)
        elif type(value).__module__.startswith("bitsandbytes."):
            yield from _beside(value)
