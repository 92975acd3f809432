"""Reports denoising steps of a pipeline's call, by its callback or else by its scheduler."""

from __future__ import annotations

import functools
import inspect
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.preview_maps import PreviewSource


class Steps:
    """Reports the denoising steps of one pipeline's calls, with previews."""

    def __init__(self, pipeline: Any, context: RunContext, preview_source: PreviewSource) -> None:
        self._pipeline = pipeline
        self._context = context
        self._preview_source = preview_source
        self._done = 0
        self._clock_started = 0.0

    def end(self, done: int, total: int, latents: Any) -> None:
        """Reports that so many steps of the call are done."""
        if done == 1:
            # The clock starts at the end of the first step, to exclude the time before the loop.
            self._clock_started = time.monotonic()
        self._context.end_step(
            done, max(total, done), self._clock_started, latents, self._preview_source
        )

    def on_step_end(
        self, pipeline: Any, index: int, _time: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Implements diffusers' `callback_on_step_end`, for the pipeline or one inside it."""
        self.end(index + 1, _total(pipeline), tensors.get("latents"))
        return {}

    def at(self, scheduler: Any) -> None:
        """Wraps `step` of the scheduler, which belongs to this run."""
        step = scheduler.step

        # Pipelines inspect its signature.
        @functools.wraps(step)
        def reporting_step(*arguments: Any, **named: Any) -> Any:
            output = step(*arguments, **named)
            # A second call counts from 1 again.
            total = _total(self._pipeline)
            self._done = self._done % total + 1
            self.end(self._done, total, output[0])
            return output

        scheduler.step = reporting_step


def _total(pipeline: Any) -> int:
    """Returns the step count of the call, from the pipeline or else its scheduler."""
    return int(getattr(pipeline, "num_timesteps", None) or len(pipeline.scheduler.timesteps))


def report_steps(
    pipeline: Any, context: RunContext, preview_source: PreviewSource
) -> dict[str, Any]:
    """Makes every call of the pipeline report its steps; returns the arguments its calls need.

    Some diffusers pipelines have no callback (the decoders of Kandinsky 2.2, HunyuanVideo 1.5,
    Marigold, …); each of their steps calls the scheduler once. Those with neither have no steps.
    """
    steps = Steps(pipeline, context, preview_source)
    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:
        return {"callback_on_step_end": steps.on_step_end}
    if (scheduler := getattr(pipeline, "scheduler", None)) is not None:
        steps.at(scheduler)
    return {}
