"""IP-adapters in the denoiser of a step's pipeline, for the step's calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import FluxIPAdapterMixin, IPAdapterMixin, SD3IPAdapterMixin
from safetensors import safe_open

from app.dialect.fingerprint import tensor_shapes
from app.dialect.plan import PipelineStep
from app.errors import LoadError, first_line
from app.models.specs import AdapterSpec
from app.worker.device import is_out_of_memory
from app.worker.loading.parts import Parts

ADDED = ("encoder_hid_proj", "image_proj", "text_encoder_hid_proj")
"""Modules that an adapter adds to a denoiser, or replaces there."""
OF_LORA = ".to_k_lora."
"""In the names of the tensors of a LoRA, which adapters for faces include."""

Weights = dict[str, dict[str, torch.Tensor]]
"""Tensors of an adapter, by the two parts of its file."""


@contextlib.contextmanager
def using_ip_adapters(pipeline: Any, step: PipelineStep, parts: Parts) -> Iterator[None]:
    """Has the step's IP-adapters in the pipeline's denoiser inside. Raises LoadError.

    diffusers' own unload leaves other processors than before and removes the image encoder, so
    everything that an adapter replaces is restored here. LoRAs of adapters for faces are not
    loaded here, but with the step's own.
    """
    if not step.ip_adapters:
        yield
        return
    denoiser = pipeline.unet if isinstance(pipeline, IPAdapterMixin) else pipeline.transformer
    processors = dict(denoiser.attn_processors)
    before = {name: getattr(denoiser, name) for name in ADDED if hasattr(denoiser, name)}
    kind = getattr(denoiser.config, "encoder_hid_dim_type", None)
    try:
        _load(pipeline, step, parts.ip_adapters)
        yield
    finally:
        # First what has attention of its own, which would be given processors too.
        for name in ADDED:
            if name in before:
                setattr(denoiser, name, before[name])
            elif hasattr(denoiser, name):
                delattr(denoiser, name)
        denoiser.set_attn_processor(processors)
        if not isinstance(pipeline, SD3IPAdapterMixin):
            denoiser.config.encoder_hid_dim_type = kind


def has_lora(spec: AdapterSpec) -> bool:
    """Returns True if the adapter includes a LoRA for the denoiser. Raises LoadError."""
    assert spec.file is not None
    try:
        return any(OF_LORA in name for name in tensor_shapes(spec.file))
    except (OSError, ValueError) as error:
        raise LoadError(f"'{spec.file.name}' cannot be read.", hint=f"{error}.") from error


def lora_of(pipeline: Any, spec: AdapterSpec) -> dict[str, torch.Tensor]:
    """Returns the tensors of the LoRA that this adapter includes, by the denoiser's modules."""
    assert spec.file is not None
    (found,) = pipeline.unet._load_ip_adapter_loras([_weights(spec.file)]).values()
    lora: dict[str, torch.Tensor] = found
    return lora


def _load(pipeline: Any, step: PipelineStep, specs: tuple[AdapterSpec, ...]) -> None:
    adapters = step.ip_adapters
    named: dict[str, Any] = {
        "subfolder": [adapter.source.subfolder for adapter in adapters],
        "weight_name": [adapter.weight_name for adapter in adapters],
        "local_files_only": True,
    }
    scales: Any = [adapter.scale for adapter in adapters]
    try:
        # The image encoder is already a component of the pipeline.
        if isinstance(pipeline, IPAdapterMixin):
            weights = [_without_lora(_weights(spec.file)) for spec in specs if spec.file]
            pipeline.load_ip_adapter(weights, **named, image_encoder_folder=None)
            # A list of one is the scale of one adapter, as in diffusers.
            scales = scales[0] if isinstance(scales[0], list) else scales
        elif isinstance(pipeline, FluxIPAdapterMixin):
            folders: list[Any] = [str(spec.folder) for spec in specs]
            no_encoder = {"image_encoder_pretrained_model_name_or_path": None}
            pipeline.load_ip_adapter(folders, **named, **no_encoder)
            scales = scales if len(scales) > 1 else scales[0]
        else:
            # It takes one.
            (named["subfolder"],), (named["weight_name"],) = (
                named["subfolder"],
                named["weight_name"],
            )
            pipeline.load_ip_adapter(str(specs[0].folder), **named, image_encoder_folder=None)
            (scales,) = scales
        pipeline.set_ip_adapter_scale(scales)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        models = ", ".join(f"'{adapter.source.model}'" for adapter in adapters)
        which = f"IP-adapter {models}" if len(adapters) == 1 else f"IP-adapters {models}"
        raise LoadError(
            f"The {which} could not be applied in step '{step.name}'.",
            hint=f"{type(error).__name__}: {first_line(error)}",
        ) from error


def _weights(file: Path) -> Weights:
    """Returns the tensors of an adapter for a UNet, as diffusers reads them."""
    found: Weights = {"image_proj": {}, "ip_adapter": {}}
    with safe_open(file, framework="pt", device="cpu") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (no mapping)
            part, _, inner = name.partition(".")
            if part in found:
                found[part][inner] = tensors.get_tensor(name)
    return found


def _without_lora(weights: Weights) -> Weights:
    """Returns the weights without a LoRA's, which diffusers would load and activate alone."""
    adapter = {name: each for name, each in weights["ip_adapter"].items() if "_lora." not in name}
    return {**weights, "ip_adapter": adapter}
