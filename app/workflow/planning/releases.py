"""What leaves the memory after a step: the steps of a plan whose components do."""

from __future__ import annotations

from app.workflow.document import StepDocument
from app.workflow.plan import Step
from app.workflow.planning.values import ValueReader
from app.workflow.references import Path as Place


class Releases:
    """Known as far as the documents have been read."""

    def __init__(self) -> None:
        self._tasks: list[str] = []
        """The steps that are tasks, which `release_models` is about."""

    def note(
        self, step: StepDocument, steps: list[Step], before: int, at: Place, reader: ValueReader
    ) -> None:
        """Note in the last of `steps` what leaves after it; `before` this one of the document, a
        sub-workflow perhaps, there were so many."""
        made = [each.name for each in steps[before:]]
        if step.task is not None:
            self._tasks += made
            if step.release_pipeline:
                message = "A task has no pipeline."
                reader.note(
                    (*at, "release_pipeline"), message, "Its models leave with 'release_models'."
                )
        leaving = [name for name in made if name not in self._tasks] * step.release_pipeline
        leaving += self._tasks * step.release_models
        if leaving and made:
            together = tuple(dict.fromkeys((*steps[-1].releases, *leaving)))
            steps[-1] = steps[-1].model_copy(update={"releases": together})
