"""Has a pipeline's call tell its steps: by its own callback, or else at its scheduler's."""

from __future__ import annotations

import functools
import inspect
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.preview_maps import Sight


class Steps:
    """Tells the steps of one pipeline's calls, and shows what is drawn so far."""

    def __init__(self, pipeline: Any, context: RunContext, sight: Sight) -> None:
        self._pipeline = pipeline
        self._context = context
        self._sight = sight
        self._done = 0
        self._clock_started = 0.0

    def end(self, done: int, total: int, latents: Any) -> None:
        """Tell that so many steps of the call are done."""
        if done == 1:
            # The first step's end starts the clock: what came before was not the denoiser.
            self._clock_started = time.monotonic()
        self._context.end_step(done, max(total, done), self._clock_started, latents, self._sight)

    def on_step_end(
        self, pipeline: Any, index: int, _time: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """diffusers' `callback_on_step_end`, called by the pipeline or by one that is in it."""
        self.end(index + 1, _total(pipeline), tensors.get("latents"))
        return {}

    def at(self, scheduler: Any) -> None:
        """Have the scheduler tell each step that it is asked for. It is this run's own."""
        step = scheduler.step

        # Pipelines look at its signature for what they may give it.
        @functools.wraps(step)
        def told_step(*arguments: Any, **named: Any) -> Any:
            output = step(*arguments, **named)
            # A second call begins anew.
            total = _total(self._pipeline)
            self._done = self._done % total + 1
            self.end(self._done, total, output[0])
            return output

        scheduler.step = told_step


def _total(pipeline: Any) -> int:
    """How many steps the call makes; what a pipeline does not say its scheduler knows."""
    return int(getattr(pipeline, "num_timesteps", None) or len(pipeline.scheduler.timesteps))


def tell_steps(pipeline: Any, context: RunContext, sight: Sight) -> dict[str, Any]:
    """Have every call of the pipeline tell its steps; the arguments that its calls need for that.

    Of diffusers' pipelines some have no callback (the decoders of Kandinsky 2.2,
    HunyuanVideo 1.5, Marigold, …); each of their steps asks the scheduler once. What has neither
    makes no steps.
    """
    steps = Steps(pipeline, context, sight)
    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:
        return {"callback_on_step_end": steps.on_step_end}
    if (scheduler := getattr(pipeline, "scheduler", None)) is not None:
        steps.at(scheduler)
    return {}
