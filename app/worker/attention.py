"""How a denoiser computes its attention in one step, and what it does not compute every time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig
from diffusers.models import attention_processor
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.cache_utils import CacheMixin

from app.errors import LoadError
from app.worker.loading import first_line
from app.workflow.plan import CacheSettings, PipelineStep

CACHES = {"first_block": FirstBlockCacheConfig, "taylorseer": TaylorSeerCacheConfig}


@contextlib.contextmanager
def attending(pipeline: Any, step: PipelineStep) -> Iterator[None]:
    """Inside, the step's attention backend and its UNet's processors. Raises LoadError.

    The backend is a setting of the whole process, which a component's own method leaves changed, so
    it is set around the step.
    """
    with contextlib.ExitStack() as given_back:
        if step.attention_backend is not None:
            try:
                given_back.enter_context(attention_backend(step.attention_backend))
            except (ValueError, RuntimeError, ImportError) as error:
                raise LoadError(
                    f"The attention backend '{step.attention_backend}' cannot be used here.",
                    hint=first_line(error),
                ) from error
        if step.attention_processor is not None:
            unet = getattr(pipeline, "unet", None)
            if unet is None:
                raise LoadError(
                    f"{type(pipeline).__name__} has no unet to set attention processors of.",
                    hint=f"Remove 'unet' from {step.place}.pipeline.configuration.",
                )
            given_back.callback(unet.set_attn_processor, dict(unet.attn_processors))
            unet.set_attn_processor(getattr(attention_processor, step.attention_processor)())
        yield


@contextlib.contextmanager
def cached(pipeline: Any, cache: CacheSettings, place: str) -> Iterator[None]:
    """Inside, the denoiser's cache is on; after it, it is gone with all it holds.

    Raises LoadError where the pipeline's denoiser has none.
    """
    denoiser = getattr(pipeline, "transformer", None)
    if not isinstance(denoiser, CacheMixin):
        raise LoadError(
            f"The denoiser of {type(pipeline).__name__} has no cache.",
            hint=f"Remove 'cache' from {place}.pipeline.configuration.",
        )
    denoiser.enable_cache(CACHES[cache.type](**cache.options))
    try:
        yield
    finally:
        denoiser.disable_cache()
