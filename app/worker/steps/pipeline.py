"""Runs a pipeline step: one call per combination of the results it refers to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from app.worker.steps.arguments import combinations
from app.worker.steps.chain import chained
from app.worker.steps.drawing import drawing_from
from app.worker.steps.made import Made, Output
from app.worker.steps.sounds import heard_at
from app.workflow.plan import PipelineStep

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.loading.parts import Parts
    from app.worker.preview_maps import Sight
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
    drawing = drawing_from(step.seed, context.device.torch_device)
    with (
        drawing if step.generator else contextlib.nullcontext(),
        tuned(pipeline, step, context.device),
        context.prompts.remembering(pipeline, step, parts, context.device),
    ):
        context.tell_phases(pipeline.components)
        sight = context.preview_maps.sight(pipeline, parts)
        call = _telling(pipeline, step, context, sight)
        if step.generator:
            call = partial(call, generator=torch.Generator("cpu").manual_seed(step.seed))

        def returning(combination: Mapping[str, Any]) -> list[Any]:
            sight.begin(combination)
            entered = time.monotonic()
            with torch.inference_mode():
                output = call(**heard_at(combination, rate))
            context.spent.compute_s += time.monotonic() - entered
            given = returned(output, pipeline)
            context.preview_maps.note(sight, given)
            return given

        for iteration, combination in enumerate(arguments):
            context.checkpoint()
            if step.chain is None:
                made += returning(combination)
            else:
                film = chained(step, step.chain, combination, returning, context, writer, iteration)
                made.append(film)
    context.results[step.name] = Made(made)
    if step.saves:
        context.enter("saving")
        writer.save(step, context.results[step.name])


def _telling(
    pipeline: Any, step: PipelineStep, context: RunContext, sight: Sight
) -> Callable[..., Any]:
    """Returns the pipeline's call, with progress reports."""
    from app.worker.telling import tell_steps

    if step.modular is None:
        return partial(pipeline, **tell_steps(pipeline, context, sight))
    # Imported late: it imports diffusers' blocks.
    from app.worker.modular_calls import telling

    return telling(pipeline, context, sight)


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
    return [Output(fields)]
