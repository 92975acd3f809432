"""Runs a pipeline step: one call per combination of the results it refers to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from app.worker.steps.arguments import combinations
from app.worker.steps.chain import chained
from app.worker.steps.resampling import resample_references
from app.worker.steps.seeding import seeded
from app.worker.steps.step_output import CallOutput, StepOutput
from app.workflow.plan import PipelineStep

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.loading.parts import Parts
    from app.worker.preview_maps import PreviewSource
    from app.worker.results import ResultWriter


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

    from app.worker.loading.load import assemble
    from app.worker.tuning.tune import tuned

    arguments = combinations(step.name, step.arguments, context, bare=True)
    pipeline = assemble(step, parts, components)
    rate = getattr(pipeline, "audio_sampling_rate", None)
    made: list[Any] = []
    drawing = seeded(step.seed, context.device.torch_device)
    with (
        drawing if step.generator else contextlib.nullcontext(),
        tuned(pipeline, step, parts, context.device),
        context.prompts.memoising(pipeline, step, parts, context.device),
    ):
        context.map_phases(pipeline.components)
        preview_source = context.preview_maps.preview_source(pipeline, parts)
        call = _reporting_call(pipeline, step, context, preview_source)
        if step.generator:
            call = partial(call, generator=torch.Generator("cpu").manual_seed(step.seed))

        def returning(combination: Mapping[str, Any]) -> list[Any]:
            preview_source.begin(combination)
            entered = time.monotonic()
            with torch.inference_mode():
                output = call(**resample_references(combination, rate))
            context.spent.compute_s += time.monotonic() - entered
            given = returned(output, pipeline)
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
    pipeline: Any, step: PipelineStep, context: RunContext, preview_source: PreviewSource
) -> Callable[..., Any]:
    """Returns the pipeline's call, with progress reports."""
    from app.worker.progress import report_steps

    if step.modular is None:
        return partial(pipeline, **report_steps(pipeline, context, preview_source))
    # Imported late: it imports diffusers' blocks.
    from app.worker.modular_calls import reporting_call

    return reporting_call(pipeline, context, preview_source)


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
