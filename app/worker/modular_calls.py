"""The calls of modular pipelines: how far their loops are, what they give, what is remembered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines.modular_pipeline import LoopSequentialPipelineBlocks, PipelineState

from app.steps.made import Output
from app.worker.context import RunContext
from app.worker.memo import ENCODERS, Recalled
from app.worker.preview_maps import Sight


def telling(pipeline: Any, context: RunContext, sight: Sight) -> Callable[..., Any]:
    """The pipeline's call: its denoising loops tell their progress and show what they have drawn.

    Where it names no output it gives what its blocks call their outputs, by name.
    """
    for loop in loops_in(pipeline._blocks):
        _Loop(loop, context, sight)

    def call(**arguments: Any) -> Any:
        if "generator" not in pipeline._blocks.input_names:
            # No block draws.
            arguments.pop("generator", None)
        returned = pipeline(**arguments)
        if isinstance(returned, PipelineState):
            returned = returned.get(pipeline._blocks.output_names)
        if isinstance(returned, dict) and returned.get("videos") is None:
            return Output(returned)
        return returned

    return call


class _Loop:
    """One loop's progress bar, and what is behind it."""

    def __init__(self, loop: Any, context: RunContext, sight: Sight) -> None:
        self._context = context
        self._sight = sight
        self._step = loop.loop_step
        self._latents: Any = None
        self._done, self._total, self._started = 0, 1, 0.0
        # On the blocks of this one pipeline; the loops of all families call these two.
        loop.loop_step = self._taken
        loop.progress_bar = self._bar

    def _taken(self, components: Any, state: Any, **position: Any) -> Any:
        components, state = self._step(components, state, **position)
        self._latents = getattr(state, "latents", None)
        return components, state

    @contextlib.contextmanager
    def _bar(self, iterable: Any = None, total: int | None = None) -> Iterator[Any]:
        self._done, self._total = 0, int(total or len(iterable or ()) or 1)
        try:
            yield self
        finally:
            self._latents = None

    def update(self, steps: int = 1) -> None:
        """As a progress bar has it: so many steps more are done."""
        if self._done == 0:
            # The first step's end starts the clock: what came before was not the denoiser.
            self._started = time.monotonic()
        self._done += steps
        total = max(self._total, self._done)
        self._context.end_step(self._done, total, self._started, self._latents, self._sight)


@contextlib.contextmanager
def recalling(pipeline: Any, recalled: Recalled) -> Iterator[None]:
    """Inside, what the pipeline's blocks for text encoders make is looked up.

    A block is given its declared inputs, its components and their guider, and gives its declared
    outputs: one that changes anything else is never remembered.
    """
    with contextlib.ExitStack() as given_back:
        for block in blocks_in(pipeline._blocks):
            calls_encoder = any(name.startswith(ENCODERS) for name in block.component_names)
            if calls_encoder and not block.sub_blocks:
                given_back.callback(setattr, block, "__class__", type(block))
                # A call is looked up on the class.
                block.__class__ = _recalling_class(type(block), recalled)
        yield


def _recalling_class(block_class: Any, recalled: Recalled) -> Any:
    def call(block: Any, components: Any, state: PipelineState) -> Any:
        given = block.get_block_state(state)
        names = block.intermediate_output_names
        before = {**state.values, **given.as_dict()}
        ran = False

        def encode() -> Any:
            nonlocal ran
            ran = True
            block_class.__call__(block, components, state)
            others = state.values.keys() - names
            if any(state.values[name] is not before.get(name) for name in others):
                return state
            return tuple(map(state.values.get, names))

        known_by = [block_class.__qualname__, _guiders(components), given.as_dict()]
        made = recalled(known_by, encode)
        if made is state:
            return components, state
        outputs = dict(zip(names, made, strict=True))
        if ran:
            state.values.update(outputs)
        else:
            for name, value in outputs.items():
                given[name] = value
            block.set_block_state(state, given)
        return components, state

    return type(block_class.__name__, (block_class,), {"__call__": call})


def _guiders(components: Any) -> list[Any]:
    """What the pipeline's guiders say to a text encoder: whether there is a negative prompt."""
    return [
        [name, type(each).__qualname__, str(dict(each.config)), each._enabled, each.num_conditions]
        for name, each in components.components.items()
        if isinstance(each, BaseGuidance)
    ]


def loops_in(blocks: Any) -> Iterator[Any]:
    """All denoising loops of these blocks."""
    return (block for block in blocks_in(blocks) if isinstance(block, LoopSequentialPipelineBlocks))


def blocks_in(blocks: Any) -> Iterator[Any]:
    """These blocks and all that are in them."""
    yield blocks
    for block in blocks.sub_blocks.values():
        yield from blocks_in(block)
