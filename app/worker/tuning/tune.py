"""Applies run-time settings before a step's calls and undoes them afterwards.

Held components are not changed for good: IP-adapters and LoRAs are removed; tiling is reset;
offload hooks are removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import DENOISERS
from app.dialect.setting_blocks import CacheDit
from app.worker.device import Device
from app.worker.loading.parts import Parts
from app.worker.tuning.attention import using_attention_backend
from app.worker.tuning.cache_dit import using_cache_dit
from app.worker.tuning.caches import using_cache
from app.worker.tuning.component_tuning import attention_of, using_component_settings
from app.worker.tuning.ip_adapters import using_ip_adapters
from app.worker.tuning.loras import HeldLoras
from app.worker.tuning.offload import on_device
from app.worker.tuning.teacache import using_teacache
from app.worker.tuning.weighting import weighting_prompts


@contextlib.contextmanager
def tuned(
    pipeline: Any, step: PipelineStep, parts: Parts, device: Device, loras: HeldLoras
) -> Iterator[tuple[str, ...]]:
    """Applies the step's settings to the pipeline inside, and undoes them whatever happens.

    Returns sentences about what of its LoRAs is not applied. Enter before random numbers are drawn:
    loading an adapter draws some.
    """
    with contextlib.ExitStack() as given_back:
        for name in DENOISERS:
            if isinstance(denoiser := getattr(pipeline, name, None), torch.nn.Module):
                # Some pipelines perturb attention for a call, and leave it so if it is cancelled.
                given_back.callback(attention_of(denoiser))
        if step.attention_backend is not None:
            given_back.enter_context(using_attention_backend(step.attention_backend))
        if step.attention_slicing or step.tunings:
            given_back.enter_context(using_component_settings(pipeline, step))
        if step.prompt_weighting:
            given_back.enter_context(weighting_prompts(pipeline))
        given_back.enter_context(using_ip_adapters(pipeline, step, parts))
        losses = given_back.enter_context(loras.applied(pipeline, step, parts))
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
        yield losses


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
