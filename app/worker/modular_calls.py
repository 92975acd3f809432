"""The calls of modular pipelines: how far their loops are, and what they return."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from diffusers.modular_pipelines.modular_pipeline import PipelineState

from app.worker.context import RunContext
from app.worker.modular_blocks import loops_in
from app.worker.preview_maps import Sight
from app.worker.steps.made import Output


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
