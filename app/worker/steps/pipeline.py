"""Runs a pipeline step: one call per combination of the results it refers to."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from app.dialect.plan import PipelineStep
from app.worker.device import seeded
from app.worker.steps.arguments import check_clip_skip, combinations
from app.worker.steps.chain import chained
from app.worker.steps.inpainting import in_own_shape, inpainting_notices, with_own_pixels
from app.worker.steps.media import resample_references
from app.worker.steps.notices import prompt_notices, size_notice, unused_words, variant_notices
from app.worker.steps.step_output import CallOutput, StepOutput

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.loading.parts import Parts
    from app.worker.previews import PreviewSource
    from app.worker.results import ResultWriter
    from app.worker.tuning.prompt_changes import PromptChanges


def run(
    step: PipelineStep,
    parts: Parts,
    components: Mapping[str, Any],
    context: RunContext,
    writer: ResultWriter,
) -> None:
    """Calls the pipeline, stores the result in the context and saves it.

    The random generator is always the CPU's, so that a seed gives one image on every device. It is
    new in every run; all calls of the step share it, as the dialect defines. Pipelines that draw
    from torch's global generators too (Stable Diffusion 3's ControlNet for the latents of its
    control image) use the same seed.
    """
    import torch

    from app.compat.worker.clip_text_model import with_inner_text_model
    from app.worker.loading.load import assemble
    from app.worker.tuning.acceleration import idle_backend_notices
    from app.worker.tuning.prompt_changes import changing_prompts
    from app.worker.tuning.textual_inversions import using_textual_inversions
    from app.worker.tuning.tune import reset_caches, tuned

    arguments = combinations(step.name, step.arguments, context, bare=True)
    pipeline = assemble(step, parts, components)
    if step.modular is None:
        arguments = [in_own_shape(pipeline, combination) for combination in arguments]
    limits = context.plan.limits
    rate = getattr(pipeline, "audio_sampling_rate", None)
    made: list[Any] = []
    for sentence in (*variant_notices(parts), *idle_backend_notices(step, parts)):
        context.notice(sentence)
    drawing = seeded(step.seed, context.device.torch_device)
    with (
        using_textual_inversions(pipeline, step, parts) as words,
        tuned(pipeline, step, parts, context.device, context.loras) as losses,
        drawing if step.generator else contextlib.nullcontext(),
        context.prompts.memoising(pipeline, step, parts, context.device),
        changing_prompts(pipeline, step) as changes,
    ):
        for sentence in losses:
            context.notice(sentence)
        context.map_phases(pipeline.components)
        preview_source = context.preview_maps.preview_source(pipeline, parts)
        call = _reporting_call(pipeline, step, context, preview_source, changes)
        tuples = _tuples(type(pipeline).__call__)
        if step.generator:
            call = partial(call, generator=torch.Generator("cpu").manual_seed(step.seed))

        def returning(combination: Mapping[str, Any]) -> list[Any]:
            preview_source.begin(combination)
            changes.begin(combination)
            check_clip_skip(step.name, pipeline, combination)
            for sentence in inpainting_notices(combination, step.arguments):
                context.notice(sentence)
            for sentence in prompt_notices(pipeline, step, combination):
                context.notice(sentence)
            for sentence in unused_words(words, combination):
                context.notice(sentence)
            # Ordinary pipelines do it themselves, modular ones do not.
            reset_caches(pipeline)
            entered = time.monotonic()
            with torch.inference_mode(), with_inner_text_model():
                output = call(**_with_tuples(resample_references(combination, rate), tuples))
            context.spent.compute_s += time.monotonic() - entered
            given = returned(output, pipeline)
            if limits.keep_unmasked:
                given = with_own_pixels(
                    given,
                    combination,
                    step.arguments,
                    limits.mask_seam_px,
                    type(pipeline).__name__,
                )
            if sentence := size_notice(combination, given):
                context.notice(sentence)
            context.preview_maps.note(preview_source, given)
            return given

        for iteration, combination in enumerate(arguments):
            context.cancel_point()
            if step.chain is None:
                made += returning(combination)
            else:
                video = chained(
                    step, step.chain, combination, returning, context, writer, iteration
                )
                made.append(video)
    context.results[step.name] = StepOutput(made)
    if step.saves:
        context.enter("saving")
        writer.save(step, context.results[step.name])


def _reporting_call(
    pipeline: Any,
    step: PipelineStep,
    context: RunContext,
    preview_source: PreviewSource,
    changes: PromptChanges,
) -> Callable[..., Any]:
    """Returns the pipeline's call, with progress reports."""
    if step.modular is None:
        return partial(pipeline, **report_steps(pipeline, context, preview_source, changes))
    # Imported late: it imports diffusers' blocks.
    from app.worker.modular_calls import reporting_call

    return reporting_call(pipeline, context, preview_source)


@functools.cache
def _tuples(call: Callable[..., Any]) -> set[str]:
    """Returns the arguments of a pipeline's call that are tuples and no lists: SDXL joins its
    sizes with others, which fails with JSON's lists."""
    parameters = inspect.signature(call).parameters.values()
    kinds = {each.name: str(each.annotation).lower() for each in parameters}
    return {name for name, kind in kinds.items() if "tuple[" in kind and "list[" not in kind}


def _with_tuples(arguments: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {
        name: tuple(value) if name in names and isinstance(value, list) else value
        for name, value in arguments.items()
    }


def returned(output: Any, pipeline: Any) -> list[Any]:
    """Returns a call's results as a list; a returned list counts item by item.

    Adds the vocoder's sample rate to an output with audio.
    """
    from diffusers.utils import BaseOutput

    if isinstance(output, list | tuple):
        return list(output)
    if not isinstance(output, BaseOutput):
        return [output]
    fields = dict(output)
    vocoder = getattr(pipeline, "vocoder", None)
    if "audio" in fields and vocoder is not None:
        fields["audio_sample_rate"] = getattr(vocoder.config, "output_sampling_rate", None)
    return [CallOutput(fields)]


# --- progress -------------------------------------------------------------------------------------


class Steps:
    """Reports the denoising steps of one pipeline's calls, with previews."""

    def __init__(
        self,
        pipeline: Any,
        context: RunContext,
        preview_source: PreviewSource,
        changes: PromptChanges,
    ) -> None:
        self._pipeline = pipeline
        self._context = context
        self._preview_source = preview_source
        self._changes = changes
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
        return self._changes.after(pipeline, index)

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
    pipeline: Any, context: RunContext, preview_source: PreviewSource, changes: PromptChanges
) -> dict[str, Any]:
    """Makes every call of the pipeline report its steps; returns the arguments its calls need.

    Some diffusers pipelines have no callback (the decoders of Kandinsky 2.2, HunyuanVideo 1.5,
    Marigold, …); each of their steps calls the scheduler once. Those with neither have no steps.
    """
    steps = Steps(pipeline, context, preview_source, changes)
    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:
        return {"callback_on_step_end": steps.on_step_end}
    if (scheduler := getattr(pipeline, "scheduler", None)) is not None:
        steps.at(scheduler)
    return {}
