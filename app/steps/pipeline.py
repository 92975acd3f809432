"""One call of a diffusers pipeline, or one per combination of the results it refers to."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from app.errors import StepError
from app.workflow.plan import (
    DTypeValue,
    ImageValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    PipelineStep,
    ResultValue,
    Value,
)

if TYPE_CHECKING:
    from app.results import ResultWriter
    from app.worker.context import RunContext
    from app.worker.loading import Parts

MAX_ITERATIONS = 10_000


def run(
    step: PipelineStep,
    parts: Parts,
    components: Mapping[str, Any],
    context: RunContext,
    writer: ResultWriter,
) -> None:
    """Call the pipeline and save what it made; its artifacts are the step's result.

    The random generator is always the CPU's, so a seed gives one picture on every device, and it is
    new in every run; all calls of the step share it, as the dialect has it.
    """
    import torch

    from app.worker.loading import assemble
    from app.worker.previews import find_preview
    from app.worker.tuning import tuned

    arguments = list(_combinations(step, context))
    pipeline = assemble(step, parts, components)
    artifacts: list[Any] = []
    with (
        tuned(pipeline, step, context.device),
        context.prompts.remembering(pipeline, step, parts, context.device),
    ):
        context.tell_phases(pipeline.components)
        callbacks = _callbacks(
            pipeline, context, find_preview(parts.folder, type(pipeline).__name__)
        )
        if step.generator:
            callbacks["generator"] = torch.Generator("cpu").manual_seed(step.seed)
        for combination in arguments:
            context.checkpoint()
            entered = time.monotonic()
            with torch.inference_mode():
                output = pipeline(**combination, **callbacks)
            context.spent.compute_s += time.monotonic() - entered
            artifacts += _artifacts(output)
    context.results[step.name] = artifacts
    if step.saves:
        context.enter("saving")
        writer.save(step, artifacts)


def _callbacks(pipeline: Any, context: RunContext, preview: Any) -> dict[str, Any]:
    """Arguments that make the call tell its progress, where the pipeline has a callback."""
    if "callback_on_step_end" not in inspect.signature(pipeline.__call__).parameters:
        return {}
    clock_started = 0.0

    def on_step_end(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal clock_started
        done = step + 1
        if done == 1:
            # The first step's end starts the clock: what came before was not the denoiser.
            clock_started = time.monotonic()
        context.progress(done, max(int(pipeline.num_timesteps), done), clock_started)
        if "latents" in tensors:
            context.preview(tensors["latents"], preview)
        context.checkpoint()
        return {}

    return {"callback_on_step_end": on_step_end}


def _artifacts(output: Any) -> list[Any]:
    """What the step made: pictures one by one, a video as its list of frames."""
    for name in ("images", "frames"):
        found = getattr(output, name, None)
        if found is not None:
            return list(found)
    raise StepError(f"{type(output).__name__} holds neither pictures nor frames.")


# --- arguments -----------------------------------------------------------------------------------


def _combinations(step: PipelineStep, context: RunContext) -> Iterator[dict[str, Any]]:
    """The arguments of every call: the product over all results referred to, the last fastest."""
    choices = [_choices(reference, step, context) for reference in step.references]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_ITERATIONS:
        raise StepError(f"Step '{step.name}' would run {count} times; {MAX_ITERATIONS} at most.")
    for combination in itertools.product(*choices):
        chosen = iter(combination)
        yield {name: _live(value, chosen) for name, value in step.arguments.items()}


def _choices(reference: ResultValue, step: PipelineStep, context: RunContext) -> list[Any]:
    artifacts = context.results[reference.step]
    if not artifacts:
        raise StepError(f"Step '{reference.step}', which '{step.name}' refers to, made nothing.")
    if reference.single and len(artifacts) > 1:
        raise StepError(
            f"Step '{reference.step}' made {len(artifacts)} results, but a sub-workflow takes one.",
            hint="Ask for one picture in that step.",
        )
    if not reference.property:
        return artifacts
    missing = [a for a in artifacts if not hasattr(a, reference.property)]
    if missing:
        raise StepError(
            f"A {type(missing[0]).__name__} of step '{reference.step}' has no"
            f" '{reference.property}', which '{step.name}' refers to."
        )
    return [getattr(artifact, reference.property) for artifact in artifacts]


def _live(value: Value, chosen: Iterator[Any]) -> Any:
    """The value as the pipeline takes it; results come from `chosen` in template order."""
    match value:
        case LiteralValue():
            return value.value
        case ImageValue():
            return _picture(value.path)
        case ResultValue():
            return next(chosen)
        case DTypeValue():
            import torch

            return getattr(torch, value.dtype)
        case ListValue():
            return [_live(item, chosen) for item in value.items]
        case ObjectValue():
            return {name: _live(entry, chosen) for name, entry in value.entries.items()}


def _picture(path: str) -> Any:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise StepError(f"The picture '{path}' can no longer be read.", hint=f"{error}") from error
