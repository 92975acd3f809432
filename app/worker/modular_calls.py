"""Calls of modular pipelines: progress of their denoising loops, and their results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from diffusers.modular_pipelines.modular_pipeline import PipelineState

from app.worker.context import RunContext
from app.worker.modular_blocks import loops_in
from app.worker.previews import PreviewSource
from app.worker.steps.step_output import CallOutput


def reporting_call(
    pipeline: Any, context: RunContext, preview_source: PreviewSource
) -> Callable[..., Any]:
    """Returns the pipeline's call, with progress and previews from its denoising loops.

    Without an `output` argument the call returns the declared outputs of its blocks, by name.
    """
    for loop in loops_in(pipeline._blocks):
        _Loop(loop, context, preview_source)

    def call(**arguments: Any) -> Any:
        if "generator" not in pipeline._blocks.input_names:
            # No block draws random numbers.
            arguments.pop("generator", None)
        returned = pipeline(**arguments)
        if isinstance(returned, PipelineState):
            returned = returned.get(pipeline._blocks.output_names)
        if isinstance(returned, dict) and returned.get("videos") is None:
            return CallOutput(returned)
        return returned

    return call


class _Loop:
    """Reports the progress of one loop, in place of its progress bar."""

    def __init__(self, loop: Any, context: RunContext, preview_source: PreviewSource) -> None:
        self._context = context
        self._preview_source = preview_source
        self._step = loop.loop_step
        self._latents: Any = None
        self._done, self._total, self._started = 0, 1, 0.0
        # Set on this pipeline's own blocks; the loops of all families call these two.
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
        """Reports that `steps` more steps are done, as tqdm's `update`."""
        if self._done == 0:
            # The clock starts at the end of the first step, to exclude the time before the loop.
            self._started = time.monotonic()
        self._done += steps
        total = max(self._total, self._done)
        self._context.end_step(
            self._done, total, self._started, self._latents, self._preview_source
        )
