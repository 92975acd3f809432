"""At how many frames per second a film plays whose result block does not say.

The dialect's own eight are right for a film without any pace. One that was made for 24 (its call's
`frame_rate`, its sound, its chain) is as long as its sound only at those.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from app.workflow.installed.signatures import call_signature
from app.workflow.plan import PipelineStep, Step, TaskStep
from app.workflow.plan_values import LiteralValue, Value

ARGUMENTS = ("frame_rate", "fps")
"""What calls name it by."""
OF_FILMS = ("video/", "image/gif")


class Paces:
    """Known as far as the steps of a plan have been read."""

    def __init__(self) -> None:
        self._paces: dict[str, float] = {}

    def paced(self, step: Step) -> Step:
        """The step, with the pace of its film in its result where the document leaves that open:
        its chain's, its call's, else that of the steps whose films it takes."""
        result = step.result
        said = None if result is None else result.fps
        pace = said or _own(step) or self._inherited(step)
        if pace is None:
            return step
        self._paces[step.name] = pace
        if said or result is None or not result.content_type.startswith(OF_FILMS):
            return step
        return step.model_copy(update={"result": result.model_copy(update={"fps": pace})})

    def _inherited(self, step: Step) -> float | None:
        found = {self._paces.get(each.step) for each in step.references} - {None}
        return found.pop() if len(found) == 1 else None


def _own(step: Step) -> float | None:
    if isinstance(step, TaskStep):
        found = {_argued(call) for call in step.calls}
        return found.pop() if len(found) == 1 else None
    if not isinstance(step, PipelineStep):
        return None
    of_chain = None if step.chain is None else step.chain.fps
    return of_chain or _argued(step.arguments) or _usual(step)


def _argued(call: Mapping[str, Value]) -> float | None:
    for name in ARGUMENTS:
        value = call.get(name)
        if isinstance(value, LiteralValue) and (pace := _pace(value.value)):
            return pace
    return None


def _usual(step: PipelineStep) -> float | None:
    """That of a call which leaves it to the pipeline."""
    signature = call_signature(step.pipeline_class.rpartition(".")[2])
    for parameter in signature.parameters if signature is not None else ():
        if parameter.name in ARGUMENTS and parameter.name not in step.arguments:
            return _pace(ast.literal_eval(parameter.default)) if parameter.default else None
    return None


def _pace(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= 240 else None  # type: ignore[arg-type,operator]
