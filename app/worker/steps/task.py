"""Runs a task step: one call per combination of the results it refers to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from app.dialect.plan import TaskStep
from app.errors import StepError
from app.tasks import TASKS
from app.tasks.task import Arguments, Loaded, Task, mistakes
from app.worker.device import seeded
from app.worker.steps.arguments import combinations
from app.worker.steps.step_output import StepOutput

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.loading.parts import TaskParts
    from app.worker.results import ResultWriter


def run(
    step: TaskStep,
    parts: TaskParts,
    components: Mapping[str, Any],
    context: RunContext,
    writer: ResultWriter,
) -> None:
    """Calls the task, stores the results in the context and saves them.

    All calls of a random task share one generator, with the step's seed.
    """
    import numpy as np

    task = TASKS[step.command]
    assert task.run is not None
    calls = [call for template in step.calls for call in combinations(step.name, template, context)]
    context.enter("computing")
    entered = time.monotonic()
    made: list[Any] = []
    progress = _Progress(context, len(calls))
    with contextlib.ExitStack() as given_back:
        more: tuple[Any, ...] = (np.random.default_rng(step.seed),) if task.random else ()
        if parts.parts:
            more = (_loaded(step, parts, components, context, progress, given_back),)
        if task.reports:
            more = (progress.within_call,)
        for number, call in enumerate(calls, start=1):
            context.cancel_point()
            given = task.run(_arguments(step, task, call), *more)
            made += given if task.many else [_unquoted(given)]
            progress.called(number)
    context.spent.compute_s += time.monotonic() - entered
    context.results[step.name] = StepOutput(made)
    if step.saves:
        context.enter("saving")
        writer.save(step, context.results[step.name])


class _Progress:
    """Reports a step's progress: calls done, or the progress within its only call."""

    def __init__(self, context: RunContext, calls: int) -> None:
        self._context = context
        self._calls = calls
        self._clock_started = 0.0

    def called(self, number: int) -> None:
        if self._calls > 1:
            self._report(number, self._calls)

    def within_call(self, done: int, total: int) -> None:
        self._context.cancel_point()
        if self._calls == 1:
            self._report(done, total)

    def _report(self, done: int, total: int) -> None:
        if done == 1:
            self._clock_started = time.monotonic()
        self._context.progress(done, total, self._clock_started)


def _loaded(
    step: TaskStep,
    parts: TaskParts,
    components: Mapping[str, Any],
    context: RunContext,
    progress: _Progress,
    given_back: contextlib.ExitStack,
) -> Loaded:
    import torch

    device = torch.device("cpu") if step.on_cpu else context.device.torch_device
    given_back.enter_context(torch.inference_mode())
    if step.random:
        # These models draw from torch's global generators.
        given_back.enter_context(seeded(step.seed, device))
    return Loaded(
        components={part.name: components[part.key] for part in parts.parts},
        folders={part.name: part.folder for part in parts.parts},
        device=device,
        progress=progress.within_call,
        kept={},
    )


def _arguments(step: TaskStep, task: Task, call: Mapping[str, Any]) -> Arguments:
    try:
        return task.arguments.model_validate(dict(call))
    except ValidationError:
        # A result of an earlier step has the wrong type.
        wrong = "; ".join(
            f"{'.'.join(map(str, found.path))}: {found.message}".removeprefix(": ")
            for found in mistakes(step.command, task, call)
        )
        raise StepError(
            f"Step '{step.name}' has invalid arguments for {step.command}: {wrong}"
        ) from None


def _unquoted(given: Any) -> Any:
    """Returns text without the surrounding spaces and quotation marks that language models add."""
    if not isinstance(given, str):
        return given
    text = given.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1].strip() if quoted else text
