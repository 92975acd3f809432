"""TeaCache: reuses the last residual of a Flux denoiser where its output would hardly change.

From "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model" (Liu et al., CVPR
2025, https://arxiv.org/abs/2411.19108): the first block's input, modulated by the timestep,
predicts how much the output will change. Its relative change is mapped by a polynomial and summed;
while the sum stays below a threshold, the blocks are skipped and their last residual is added
again. The polynomial is the authors' fit for Flux.1 dev
(https://github.com/ali-vilab/TeaCache, TeaCache4FLUX).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, CacheContext, StateManager

from app.dialect.setting_blocks import TeaCacheBlock
from app.errors import LoadError

FLUX = (498.651651, -283.781631, 55.8558382, -3.82021401, 0.264230861)
"""Coefficients, the highest power first."""
HOOK = "teacache"


@contextlib.contextmanager
def using_teacache(pipeline: Any, settings: TeaCacheBlock, place: str) -> Iterator[None]:
    """Enables TeaCache inside. Raises LoadError if the denoiser is not Flux's.

    Enter after offload hooks, so that skipped blocks are not moved to the device.
    """
    denoiser = getattr(pipeline, "transformer", None)
    if not isinstance(denoiser, FluxTransformer2DModel):
        raise LoadError(
            f"{type(pipeline).__name__} has no Flux denoiser, which alone has a TeaCache.",
            hint=f"Remove 'teacache' from {place}.pipeline.configuration.",
        )
    states = StateManager(_State)
    blocks = [*denoiser.transformer_blocks, *denoiser.single_transformer_blocks]
    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    try:
        for index, block in enumerate(blocks):
            hook = _Block(states, is_last=index == len(blocks) - 1)
            if index == 0:
                hook = _FirstBlock(states, settings, pipeline)
            HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, HOOK)
        registry.invalidate_child_registries_cache()
        yield
    finally:
        registry.remove_hook(HOOK, recurse=True)
        registry.invalidate_child_registries_cache()


class _State(BaseState):  # type: ignore[misc]
    """State of one branch of guidance."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.call = 0
        self.computes = True
        self.change = 0.0
        self.modulated: torch.Tensor | None = None
        self.given: torch.Tensor | None = None
        self.residual: torch.Tensor | None = None


class _Block(ModelHook):  # type: ignore[misc]
    """Computes its block, or passes its input on; the last block adds the last residual."""

    _is_stateful = True

    def __init__(self, states: StateManager, *, is_last: bool) -> None:
        super().__init__()
        # diffusers finds this attribute and sets its branch of guidance.
        self._states = states
        self._is_last = is_last

    @property
    def _state(self) -> _State:
        if self._states._context is None:
            self._states.set_context(CacheContext(name="inference"))
        state = self._states.get_state()
        assert isinstance(state, _State)
        return state

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = self._state
        if state.computes:
            text, image = self.fn_ref.original_forward(*args, **kwargs)
            if self._is_last:
                assert state.given is not None
                state.residual = image - state.given
            return text, image
        image, text = _streams(args, kwargs)
        if self._is_last:
            assert state.given is not None
            assert state.residual is not None
            image = state.given + state.residual
        return text, image

    def reset_state(self, module: torch.nn.Module) -> torch.nn.Module:
        self._states.reset()
        return module


class _FirstBlock(_Block):
    """Decides whether the blocks of this call are computed."""

    def __init__(self, states: StateManager, settings: TeaCacheBlock, pipeline: Any) -> None:
        super().__init__(states, is_last=False)
        self._threshold = settings.rel_l1_thresh
        self._coefficients = settings.coefficients or FLUX
        self._pipeline = pipeline

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = self._state
        state.given = _streams(args, kwargs)[0]
        modulated = module.norm1(state.given, emb=_named(args, kwargs, "temb", 2))[0]  # type: ignore[operator]
        state.computes = self._computes(state, modulated)
        state.modulated = modulated
        state.call += 1
        return super().new_forward(module, *args, **kwargs)

    def _computes(self, state: _State, modulated: torch.Tensor) -> bool:
        # The first step has no residual, and the last one is always computed, for quality.
        is_last = state.call + 1 >= int(self._pipeline.num_timesteps)
        before = state.modulated
        if before is None or is_last or before.shape != modulated.shape:
            state.change = 0.0
            return True
        change = float((modulated - before).abs().mean() / before.abs().mean())
        state.change += max(polynomial(self._coefficients, change), 0.0)
        if state.change < self._threshold:
            return False
        state.change = 0.0
        return True


def polynomial(coefficients: Sequence[float], value: float) -> float:
    """Returns the polynomial's value, by Horner's rule."""
    result = 0.0
    for coefficient in coefficients:
        result = result * value + coefficient
    return result


def _streams(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        _named(args, kwargs, "hidden_states", 0),
        _named(args, kwargs, "encoder_hidden_states", 1),
    )


def _named(args: tuple[Any, ...], kwargs: dict[str, Any], name: str, position: int) -> Any:
    return kwargs[name] if name in kwargs else args[position]
