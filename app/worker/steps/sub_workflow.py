"""Runs a sub-workflow step: its result is that of its last step, saved if it has a result block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.workflow.plan import SubWorkflowStep

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.worker.results import ResultWriter


def run(step: SubWorkflowStep, context: RunContext, writer: ResultWriter) -> None:
    """Takes the last step's results of all rounds; the files of both steps are kept."""
    context.results[step.name] = context.results[step.last]
    if step.saves:
        context.enter("saving")
        writer.save(step, context.results[step.name])
