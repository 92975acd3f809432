"""The kinds of workflow steps, and the function that runs each."""

from collections.abc import Callable

from app.worker.steps import pipeline, sub_workflow, task

STEP_KINDS: dict[str, Callable[..., None]] = {
    "pipeline": pipeline.run,
    "task": task.run,
    "workflow": sub_workflow.run,
}
