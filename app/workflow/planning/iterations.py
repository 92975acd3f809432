"""How often each step of a plan will run at least, counted before anything is built.

A step runs once for every combination of the earlier results that it refers to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from app.workflow.plan import PipelineStep, Step, SubWorkflowStep, TaskStep
from app.workflow.plan_values import ListValue, LiteralValue, ResultValue, Value, references_in

MAX_ITERATIONS = 10_000
"""Of one step."""
PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")


class Iterations:
    """Counts the steps of one plan, in their order."""

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}
        self._artifacts: dict[str, int] = {}

    def add(self, step: Step) -> int:
        """How often this step, the next one of the plan, runs at least."""
        if isinstance(step, SubWorkflowStep):
            self._runs[step.name] = self._runs.get(step.last, 1)
            self._artifacts[step.name] = self._artifacts.get(step.last, 1)
            return self._runs[step.name]
        calls = [step.arguments] if isinstance(step, PipelineStep) else step.calls
        rounds = self._product(step.handed)
        runs = rounds * sum(self._combinations(call) for call in calls)
        self._runs[step.name] = runs
        self._artifacts[step.name] = rounds * sum(
            self._combinations(call) * _made_by(step, call) for call in calls
        )
        return runs

    def _combinations(self, arguments: Mapping[str, Value]) -> int:
        found = references_in(arguments.values())
        # A round of a sub-workflow has one of what it is handed.
        return self._product(reference for reference in found if not reference.handed_at)

    def _product(self, references: Iterable[ResultValue]) -> int:
        counts = (
            (self._runs if found.property else self._artifacts).get(found.step, 1)
            for found in references
        )
        # A product over many references has thousands of digits; more than enough is enough.
        product = 1
        for count in counts:
            product = min(product * count, MAX_ITERATIONS**2)
        return product


def _made_by(step: PipelineStep | TaskStep, call: Mapping[str, Value]) -> int:
    """How many results one run makes at least."""
    if not isinstance(step, PipelineStep):
        gathered = call.get("images") if step.command == "gather_images" else None
        return max(1, len(gathered.items)) if isinstance(gathered, ListValue) else 1
    prompt = _literal(call.get("prompt"))
    prompts = len(prompt) if isinstance(prompt, list) and prompt else 1
    each = (_literal(call.get(name)) for name in PER_PROMPT)
    return prompts * math.prod(count for count in each if isinstance(count, int) and count > 0)


def _literal(value: Value | None) -> object:
    return value.value if isinstance(value, LiteralValue) else None
