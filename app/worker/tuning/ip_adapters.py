"""IP-adapters: image conditioning of a denoiser, for one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusers.loaders import FluxIPAdapterMixin

from app.errors import LoadError, first_line
from app.worker.device import is_out_of_memory
from app.workflow.plan_sources import IpAdapterSource

PROJECTION_OF_TEXT = "text_encoder_hid_proj"
"""Attribute of a denoiser for its text projection while an adapter is loaded."""


@contextlib.contextmanager
def using_ip_adapter(
    pipeline: Any, adapter: IpAdapterSource, folder: Path, step_name: str
) -> Iterator[None]:
    """Loads the adapter in this folder into the pipeline's denoiser inside. Raises LoadError.

    diffusers' own unload leaves other processors than before and removes the image encoder, so
    everything the adapter replaces is restored here.
    """
    is_flux = isinstance(pipeline, FluxIPAdapterMixin)
    denoiser = pipeline.transformer if is_flux else pipeline.unet
    processors = dict(denoiser.attn_processors)
    # Flux has neither before its first adapter.
    projection = getattr(denoiser, "encoder_hid_proj", None)
    kind = getattr(denoiser.config, "encoder_hid_dim_type", None)
    try:
        _load(pipeline, adapter, folder, step_name)
        yield
    finally:
        if getattr(denoiser, "peft_config", None):
            # Face adapters include a LoRA.
            pipeline.unload_lora_weights()
        denoiser.set_attn_processor(processors)
        denoiser.encoder_hid_proj = projection
        denoiser.config.encoder_hid_dim_type = kind
        if hasattr(denoiser, PROJECTION_OF_TEXT):
            delattr(denoiser, PROJECTION_OF_TEXT)


def _load(pipeline: Any, adapter: IpAdapterSource, folder: Path, step_name: str) -> None:
    # The image encoder is already a component of the pipeline.
    is_flux = isinstance(pipeline, FluxIPAdapterMixin)
    name = "image_encoder_pretrained_model_name_or_path" if is_flux else "image_encoder_folder"
    no_encoder: dict[str, Any] = {name: None}
    try:
        pipeline.load_ip_adapter(
            str(folder),
            subfolder=adapter.source.subfolder,
            weight_name=adapter.weight_name,
            local_files_only=True,
            **no_encoder,
        )
        pipeline.set_ip_adapter_scale(adapter.scale)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"The IP-adapter '{adapter.source.model}' could not be applied in step '{step_name}'.",
            hint=f"{type(error).__name__}: {first_line(error)}",
        ) from error
