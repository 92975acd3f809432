"""The kinds of workflow steps, and the function that runs each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.dialect.plan import SubWorkflowStep
from app.worker.steps import pipeline, task

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.results import ResultWriter


def _run_sub_workflow(step: SubWorkflowStep, context: RunContext, writer: ResultWriter) -> None:
    """Takes the last step's results of all rounds; the files of both steps are kept."""
    context.results[step.name] = context.results[step.last]
    if step.saves:
        context.enter("saving")
        writer.save(step, context.results[step.name])


STEP_KINDS: dict[str, Callable[..., None]] = {
    "pipeline": pipeline.run,
    "task": task.run,
    "workflow": _run_sub_workflow,
}
