"""Prompts that change between the denoising steps: `[a|b]` and `[a:b:0.5]`.

All prompts of a call are encoded before its first step, each on its own, so that the prompt memo
holds them like others. After each step, diffusers' callback gives the pipeline the embeddings of
the next one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from app.dialect.plan import PipelineStep
from app.dialect.prompt_schedule import first_change, prompt_at
from app.worker.tuning.prompt_chunks import is_text, texts_of

CHANGEABLE = {
    f"StableDiffusion{kind}Pipeline"
    for kind in (
        "", "Img2Img", "Inpaint", "Depth2Img",
        "ControlNet", "ControlNetImg2Img", "ControlNetInpaint",
        "XL", "XLImg2Img", "XLInpaint", "XLControlNet", "XLControlNetImg2Img",
        "XLControlNetUnion", "XLControlNetUnionImg2Img",
    )
}  # fmt: skip
"""Pipelines that take both new embeddings and, where they have some, new pooled ones from the
callback. Others take only some of them (XL's ControlNets for inpainting, SD 3 with a negative
prompt), arrange them in another way (PAG), or have no callback (T2I adapters)."""
ROUNDING = 1e-9


class PromptChanges:
    """The embeddings of each denoising step of the pipeline's current call."""

    def __init__(self) -> None:
        self._arguments: Mapping[str, Any] = {}
        self._by_step: list[Any] = []

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Marks the beginning of a call with these arguments."""
        self._arguments = arguments
        self._by_step = []

    def encode(
        self, pipeline: Any, encode: Callable[..., Any], call: inspect.BoundArguments
    ) -> Any:
        """Encodes the prompts of all steps; returns the embeddings of the first."""
        written = {
            name: value
            for name, value in call.arguments.items()
            if "prompt" in name and is_text(value)
        }
        texts = [text for value in written.values() for text in texts_of(value)]
        steps = _count_steps(pipeline, self._arguments) if any(map(first_change, texts)) else 1
        made: dict[str, Any] = {}
        self._by_step = []
        for step in range(steps):
            for name, value in written.items():
                read = [prompt_at(text, step, steps) for text in texts_of(value)]
                call.arguments[name] = read[0] if isinstance(value, str) else read
            key = str([call.arguments[name] for name in written])
            if key not in made:
                made[key] = encode(*call.args, **call.kwargs)
            self._by_step.append(made[key])
        return self._by_step[0]

    def after(self, pipeline: Any, index: int) -> dict[str, torch.Tensor]:
        """Returns what `callback_on_step_end` gives the pipeline after it called its denoiser for
        the timestep of this index."""
        if len(self._by_step) < 2:
            return {}
        # Schedulers of second order have two timesteps in a step.
        step = (index + 1) // pipeline.scheduler.order
        embeddings = self._by_step[min(step, len(self._by_step) - 1)]
        device, is_guided = pipeline._execution_device, pipeline.do_classifier_free_guidance
        given = {}
        for place, name in ((0, "prompt_embeds"), (2, "add_text_embeds")):
            if place < len(embeddings):
                positive, negative = embeddings[place : place + 2]
                both = torch.cat([negative, positive]) if is_guided else positive
                given[name] = both.to(device)
        return given


def can_change(pipeline: Any) -> bool:
    """Returns True if the pipeline can take another prompt in each step."""
    return type(pipeline).__name__ in CHANGEABLE


@contextlib.contextmanager
def changing_prompts(pipeline: Any, step: PipelineStep) -> Iterator[PromptChanges]:
    """Has the prompts of a step with weights change between the steps of its calls inside, where
    the pipeline can.

    Enter after the prompt memo, which then has a prompt for each change. Call `begin` before each
    call, and give the pipeline what `after` returns.
    """
    changes = PromptChanges()
    if not (step.prompt_weighting and can_change(pipeline)):
        yield changes
        return
    encode = pipeline.encode_prompt
    signature = inspect.signature(encode)

    @functools.wraps(encode)
    def encoded(*positional: Any, **named: Any) -> Any:
        return changes.encode(pipeline, encode, signature.bind(*positional, **named))

    pipeline.encode_prompt = encoded
    try:
        yield changes
    finally:
        pipeline.encode_prompt = encode


def _count_steps(pipeline: Any, arguments: Mapping[str, Any]) -> int:
    """Returns how many denoising steps the call will make."""
    known = inspect.signature(pipeline.__call__).parameters

    def value(name: str) -> Any:
        default = known[name].default if name in known else None
        return arguments.get(name, default)

    own = value("timesteps") or value("sigmas")
    count = len(own) if own else int(value("num_inference_steps"))
    begin, end = value("denoising_start"), value("denoising_end")
    if begin is None:
        strength = value("strength")
        begin = 0 if strength is None else 1 - strength
    return max(1, int(count * ((1 if end is None else end) - begin) + ROUNDING))
