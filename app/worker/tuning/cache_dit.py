"""cache-dit's cache of a denoiser, for one step."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Iterator
from typing import Any

from app.dialect.setting_blocks import CacheDit
from app.errors import LoadError, first_line

LEFT = ("forward", "_is_patched")
"""Attributes of a denoiser that cache-dit sets and does not remove."""


@functools.cache
def _library() -> Any:
    """Returns the package. Imported late: that takes seconds."""
    library = importlib.import_module("cache_dit")
    # At its usual level it tells every call.
    logging.getLogger("CACHE_DIT").setLevel(logging.WARNING)
    return library


def supports(pipeline_class: type[Any]) -> bool:
    """Returns True if cache-dit knows the blocks of this pipeline's denoiser."""
    register = _library().BlockAdapterRegister
    return bool(register.is_supported(object.__new__(pipeline_class)))


@contextlib.contextmanager
def using_cache_dit(pipeline: Any, cache: CacheDit) -> Iterator[None]:
    """Enables the cache inside. Raises LoadError if it does not fit the denoiser."""
    library, denoiser = _library(), pipeline.transformer
    before = {name: denoiser.__dict__[name] for name in LEFT if name in denoiser.__dict__}
    config = library.DBCacheConfig(
        Fn_compute_blocks=cache.first_blocks,
        Bn_compute_blocks=cache.last_blocks,
        residual_diff_threshold=cache.threshold,
        max_warmup_steps=cache.warmup_steps,
        max_continuous_cached_steps=cache.max_skip_steps,
    )
    try:
        try:
            library.enable_cache(pipeline, cache_config=config)
        except (ValueError, AssertionError, AttributeError, TypeError) as error:
            raise LoadError(
                f"The denoiser of {type(pipeline).__name__} has no cache of the kind 'cache_dit'.",
                hint=first_line(error),
            ) from error
        yield
    finally:
        library.disable_cache(pipeline)
        for name in LEFT:
            denoiser.__dict__.pop(name, None)
        denoiser.__dict__.update(before)
