"""Applies run-time settings before a step's calls and undoes them afterwards.

Held components are not changed for good: IP-adapters are removed; tiling is reset; offload hooks
are removed. (`loras` does the same for LoRAs.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusers.loaders import FluxIPAdapterMixin

from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import IpAdapterSource
from app.dialect.setting_blocks import CacheDit
from app.errors import LoadError, first_line
from app.worker.device import Device, is_out_of_memory
from app.worker.loading.parts import Parts
from app.worker.tuning.attention import using_attention_backend
from app.worker.tuning.cache_dit import using_cache_dit
from app.worker.tuning.caches import using_cache
from app.worker.tuning.component_tuning import using_component_settings
from app.worker.tuning.offload import on_device
from app.worker.tuning.teacache import using_teacache
from app.worker.tuning.weighting import weighting_prompts


@contextlib.contextmanager
def tuned(pipeline: Any, step: PipelineStep, parts: Parts, device: Device) -> Iterator[Any]:
    """Applies the step's settings to the pipeline inside, and undoes them whatever happens."""
    with contextlib.ExitStack() as given_back:
        if step.attention_backend is not None:
            given_back.enter_context(using_attention_backend(step.attention_backend))
        if step.attention_slicing or step.tunings:
            given_back.enter_context(using_component_settings(pipeline, step))
        if step.prompt_weighting:
            given_back.enter_context(weighting_prompts(pipeline))
        if step.ip_adapter is not None and parts.ip_adapter is not None:
            folder = parts.ip_adapter.folder
            given_back.enter_context(using_ip_adapter(pipeline, step.ip_adapter, folder, step.name))
        vae = getattr(pipeline, "vae", None)
        if vae is not None:
            given_back.callback(_restore_dtype, vae, _dtype_of(vae))
            if hasattr(vae, "clear_cache"):
                # Video autoencoders would keep the frames of a cancelled call for ever.
                given_back.callback(vae.clear_cache)
        for wanted, setting in ((step.vae_tiling, "tiling"), (step.vae_slicing, "slicing")):
            if wanted and vae is not None:
                getattr(vae, f"enable_{setting}")()
                given_back.callback(getattr(vae, f"disable_{setting}"))
        reset_caches(pipeline)
        if isinstance(step.cache, CacheDit):
            given_back.enter_context(using_cache_dit(pipeline, step.cache))
        elif step.cache is not None:
            given_back.enter_context(using_cache(pipeline, step.cache))
        given_back.callback(reset_caches, pipeline)
        given_back.enter_context(on_device(pipeline, step, device))
        if step.teacache is not None:
            given_back.enter_context(using_teacache(pipeline, step.teacache, step.place))
        yield pipeline


def _restore_dtype(vae: Any, dtype: Any) -> None:
    # SDXL casts its float16 autoencoder to float32 to decode; a call that is cancelled or runs out
    # of memory there leaves it cast, and the next one could not decode.
    if _dtype_of(vae) != dtype:
        vae.to(dtype=dtype)


def _dtype_of(vae: Any) -> Any:
    """Returns the dtype of the first weights: `vae.dtype` looks through all modules."""
    return next((weight.dtype for weight in vae.parameters() if weight.is_floating_point()), None)


def reset_caches(pipeline: Any) -> None:
    """Forgets what the denoiser's caches hold of an earlier call."""
    for component in pipeline.components.values():
        if hasattr(component, "_reset_stateful_cache"):
            component._reset_stateful_cache()


# --- IP-adapters ----------------------------------------------------------------------------------

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
