"""How a denoiser computes its attention in one step, and what it does not compute every time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.cache_utils import CacheMixin

from app.errors import LoadError
from app.worker.loading import first_line
from app.workflow.plan import CacheSettings, PipelineStep

CACHES = {"first_block": FirstBlockCacheConfig, "taylorseer": TaylorSeerCacheConfig}


@contextlib.contextmanager
def attending(pipeline: Any, step: PipelineStep) -> Iterator[None]:
    """Inside, the step's attention backend. Raises LoadError.

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
