"""One task, called for every combination of the results it refers to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from app.errors import StepError
from app.steps.arguments import combinations
from app.steps.made import Made
from app.tasks import TASKS
from app.tasks.task import Arguments, Task, mistakes
from app.workflow.plan import TaskStep

if TYPE_CHECKING:
    from app.results import ResultWriter
    from app.worker.context import RunContext


def run(step: TaskStep, context: RunContext, writer: ResultWriter) -> None:
    """Call the task and save what it gave; that is the step's result.

    A task that draws at random draws on with every call, from the step's seed.
    """
    import numpy as np

    task = TASKS[step.command]
    calls = [call for template in step.calls for call in combinations(step.name, template, context)]
    context.enter("computing")
    entered = time.monotonic()
    drawing = (np.random.default_rng(step.seed),) if task.random else ()
    made: list[Any] = []
    clock_started = entered
    for number, call in enumerate(calls, start=1):
        context.checkpoint()
        given = task.run(_arguments(step, task, call), *drawing)
        made += given if task.many else [_tidied(given)]
        if number == 1:
            clock_started = time.monotonic()
        if len(calls) > 1:
            context.progress(number, len(calls), clock_started)
    context.spent.compute_s += time.monotonic() - entered
    context.results[step.name] = Made(made)
    if step.saves:
        context.enter("saving")
        writer.save(step, context.results[step.name])


def _arguments(step: TaskStep, task: Task, call: Mapping[str, Any]) -> Arguments:
    try:
        return task.arguments.model_validate(dict(call))
    except ValidationError:
        # What an earlier step made has turned out to be of another kind.
        wrong = "; ".join(
            f"{'.'.join(map(str, found.path))}: {found.message}".removeprefix(": ")
            for found in mistakes(step.command, task, call)
        )
        raise StepError(
            f"Step '{step.name}' was given what {step.command} cannot take: {wrong}"
        ) from None


def _tidied(given: Any) -> Any:
    """A text without the blanks and the pair of quotation marks that language models put around
    their answers."""
    if not isinstance(given, str):
        return given
    text = given.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1].strip() if quoted else text
