"""Attention backends and caches of a denoiser, for one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    NucleusMoEImageTransformer2DModel,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.hooks import mag_cache
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.cache_utils import CacheMixin

from app.dialect.setting_blocks import (
    CacheBlock,
    FasterCache,
    FirstBlockCache,
    MagCache,
    TaylorSeerCache,
    TextKvCache,
)
from app.errors import LoadError, first_line

IN_TWO_CALLS = ("QwenImage", "Wan")
"""Pipelines that call their denoiser once for each branch of guidance."""


@contextlib.contextmanager
def using_attention_backend(backend: str) -> Iterator[None]:
    """Sets the attention backend inside. Raises LoadError.

    The backend is a setting of the whole process, and a component's own method does not reset it.
    """
    with contextlib.ExitStack() as given_back:
        try:
            given_back.enter_context(attention_backend(backend))
        except (ValueError, RuntimeError, ImportError) as error:
            raise LoadError(
                f"The attention backend '{backend}' cannot be used here.", hint=first_line(error)
            ) from error
        yield


@contextlib.contextmanager
def using_cache(pipeline: Any, cache: CacheBlock, place: str) -> Iterator[None]:
    """Enables the denoiser's cache inside. Raises LoadError if the denoiser supports none."""
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "transformer_ref", None)
    if not isinstance(denoiser, CacheMixin):
        raise LoadError(
            f"The denoiser of {type(pipeline).__name__} has no cache.",
            hint=f"Remove 'cache' from {place}.pipeline.configuration.",
        )
    try:
        denoiser.enable_cache(_config(cache, pipeline, denoiser))
    except (ValueError, AttributeError, TypeError) as error:
        raise LoadError(
            f"The denoiser of {type(pipeline).__name__} has no cache of the kind '{cache.type}'.",
            hint=first_line(error),
        ) from error
    try:
        yield
    finally:
        denoiser.disable_cache()


def _config(cache: CacheBlock, pipeline: Any, denoiser: Any) -> Any:
    """Returns the options as diffusers' config object."""
    options = cache.model_dump(exclude={"type"})
    match cache:
        case FirstBlockCache():
            return FirstBlockCacheConfig(**options)
        case TaylorSeerCache():
            return TaylorSeerCacheConfig(**options)
        case TextKvCache():
            if not isinstance(denoiser, NucleusMoEImageTransformer2DModel):
                raise ValueError("Only that of Nucleus-Image keeps the keys of its text.")
            return TextKVCacheConfig()
        case MagCache(mag_ratios=str(named)):
            options["mag_ratios"] = getattr(mag_cache, f"{named.upper()}_MAG_RATIOS")
            return MagCacheConfig(**options)
        case MagCache():
            return MagCacheConfig(**options)
        case FasterCache():
            return _faster(pipeline, denoiser)


def _faster(pipeline: Any, denoiser: Any) -> FasterCacheConfig:
    """Returns a config with only the options that must fit the denoiser: its output layout, and
    whether one call has both branches of guidance."""
    name = type(denoiser).__name__
    if type(pipeline).__name__.startswith(IN_TWO_CALLS):
        raise ValueError("It computes guidance in two calls, whose caches would mix.")
    layout = "BFCHW" if name.startswith("CogVideoX") else "BCFHW"
    return FasterCacheConfig(
        current_timestep_callback=lambda: pipeline._current_timestep,
        tensor_format=layout if "3D" in name else "BCHW",
        is_guidance_distilled=name.startswith("Flux"),
    )
