"""Caches of a denoiser, which skip computation that changes little between denoising steps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    LTX2VideoTransformer3DModel,
    MagCacheConfig,
    ModularPipeline,
    NucleusMoEImageTransformer2DModel,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.hooks import HookRegistry, ModelHook, mag_cache
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.hooks import CacheContext, StateManager, _set_cache_context
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformerBlock
from diffusers.models.transformers.transformer_minimax_h3 import MiniMaxH3TransformerBlock

from app.dialect.setting_blocks import (
    FasterCache,
    FirstBlockCache,
    MagCache,
    TaylorSeerCache,
    TextKvCache,
)
from app.errors import LoadError, first_line

DiffusersCache = FirstBlockCache | TaylorSeerCache | FasterCache | MagCache | TextKvCache
IN_TWO_CALLS = ("QwenImage", "Wan")
"""Pipelines that call their denoiser once for each branch of guidance."""
CONTEXT_HOOK = "cache_context"


@contextlib.contextmanager
def using_cache(pipeline: Any, cache: DiffusersCache) -> Iterator[None]:
    """Enables the denoiser's cache inside. Raises LoadError if it has none of this kind."""
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "transformer_ref", None)
    assert isinstance(denoiser, CacheMixin)  # see `check_acceleration`
    _know_blocks()
    try:
        config = _config(cache, pipeline, denoiser)
        try:
            denoiser.enable_cache(config)
            if not any(_inner_hooks(denoiser)):
                raise ValueError("It knows none of that denoiser's layers.")
        except Exception:
            # Some of its blocks may have their hooks already.
            denoiser._cache_config = config
            denoiser.disable_cache()
            raise
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise LoadError(
            f"The denoiser of {type(pipeline).__name__} has no cache of the kind '{cache.type}'.",
            hint=first_line(error),
        ) from error
    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    try:
        if isinstance(pipeline, ModularPipeline):
            registry.register_hook(_BranchContext(pipeline), CONTEXT_HOOK)
        yield
    finally:
        registry.remove_hook(CONTEXT_HOOK, recurse=False)
        denoiser.disable_cache()


def _config(cache: DiffusersCache, pipeline: Any, denoiser: Any) -> Any:
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
        case MagCache():
            if isinstance(denoiser, LTX2VideoTransformer3DModel):
                raise ValueError("It would skip the sound without predicting it.")
            if isinstance(cache.mag_ratios, str):
                options["mag_ratios"] = getattr(mag_cache, f"{cache.mag_ratios.upper()}_MAG_RATIOS")
            return MagCacheConfig(**options)
        case FasterCache():
            return _faster(pipeline, denoiser)


def _faster(pipeline: Any, denoiser: Any) -> FasterCacheConfig:
    """Returns a config with only the options that must fit the denoiser: its output layout, and
    whether one call has both branches of guidance."""
    name = type(denoiser).__name__
    if isinstance(pipeline, ModularPipeline):
        raise ValueError("It does not tell the timestep, which this cache needs.")
    if type(pipeline).__name__.startswith(IN_TWO_CALLS):
        raise ValueError("It computes guidance in two calls, whose caches would mix.")
    if name.startswith("LTX"):
        raise ValueError("Its latents are a sequence, which this cache cannot split.")
    layout = "BFCHW" if name.startswith("CogVideoX") else "BCFHW"
    return FasterCacheConfig(
        current_timestep_callback=lambda: pipeline._current_timestep,
        tensor_format=layout if "3D" in name else "BCHW",
        is_guidance_distilled=name.startswith("Flux"),
    )


# --- blocks that diffusers' caches do not know ----------------------------------------------------


class _SecondStream(TransformerBlockMetadata):  # type: ignore[misc]
    """Describes a block whose second stream is an argument of another name than the text."""

    def __init__(self, argument: str) -> None:
        super().__init__(
            return_hidden_states_index=0,
            return_encoder_hidden_states_index=1,
            encoder_hidden_states_argument_name=argument,
        )

    def _get_parameter_from_args_kwargs(
        self, identifier: str, args: Any = (), kwargs: Any = None
    ) -> Any:
        # The caches ask for the usual name, whatever the block's is.
        if identifier == "encoder_hidden_states":
            identifier = self.encoder_hidden_states_argument_name
        return super()._get_parameter_from_args_kwargs(identifier, args, kwargs)


@functools.cache
def _know_blocks() -> None:
    """Registers the blocks once; diffusers imports every family for it."""
    register = TransformerBlockRegistry.register
    register(MiniMaxH3TransformerBlock, TransformerBlockMetadata(return_hidden_states_index=0))
    register(LTX2VideoTransformerBlock, _SecondStream("audio_hidden_states"))


# --- modular pipelines ----------------------------------------------------------------------------


class _BranchContext(ModelHook):  # type: ignore[misc]
    """Gives each call of a modular pipeline's denoiser the state of its branch of guidance.

    Ordinary pipelines name the branch themselves, and so do a few families of blocks.
    """

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        components = pipeline.components.values()
        self._guiders = [each for each in components if isinstance(each, BaseGuidance)]
        self._named = False

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not _has_context(module):
            # A guider counts the branches of a step.
            name = "-".join(str(guider._count_prepared) for guider in self._guiders)
            _set_cache_context(module, CacheContext(name=name))
            self._named = True
        return args, kwargs

    def post_forward(self, module: torch.nn.Module, output: Any) -> Any:
        if self._named:
            _set_cache_context(module, None)
            self._named = False
        return output


def _has_context(denoiser: torch.nn.Module) -> bool:
    states = (state for hook in _inner_hooks(denoiser) for state in vars(hook).values())
    return any(isinstance(each, StateManager) and each._context is not None for each in states)


def _inner_hooks(denoiser: torch.nn.Module) -> Iterator[ModelHook]:
    """Yields the hooks that a cache has inside the denoiser."""
    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    for child in registry._get_child_registries():
        yield from (hook for hook in child.hooks.values() if hook._is_stateful)
