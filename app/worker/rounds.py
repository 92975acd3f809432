"""The order in which the steps of a plan run.

The steps of a sub-workflow that receives several results run once for each: a round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from app.worker.context import RunContext
from app.worker.steps.arguments import rounds_of
from app.worker.steps.step_output import StepOutput
from app.workflow.plan import Rounds, Step


def in_order(
    steps: Sequence[Step], running: Collection[str], context: RunContext, depth: int = 0
) -> Iterator[Step]:
    """Yields the steps in the order in which they run.

    The caller stores each step's result in the context before it asks for the next. After the last
    round of a sub-workflow the context has its steps' results of all rounds. A sub-workflow without
    `running` steps has no rounds: its results are cached.
    """

    def rounds_at(step: Step) -> Rounds | None:
        return step.rounds[depth] if len(step.rounds) > depth else None

    for rounds, group in groupby(steps, key=rounds_at):
        members = list(group)
        if rounds is None or not any(step.name in running for step in members):
            yield from members
            continue
        returned: defaultdict[str, list[Any]] = defaultdict(list)
        for handed in rounds_of(rounds, context):
            context.handed |= handed
            yield from in_order(members, running, context, depth + 1)
            for step in members:
                if step.name in context.results:
                    returned[step.name] += context.results.pop(step.name).returned
        for reference in rounds.references:
            # The next round of an outer sub-workflow passes other results.
            context.handed.pop(reference.handed_at, None)
        context.results |= {name: StepOutput(each) for name, each in returned.items()}


def comes_after(other: Step, step: Step, names: Sequence[str]) -> bool:
    """Returns whether the other step runs after this one, or again in a later round; `names` are
    the plan's steps."""
    if other.name == step.name:
        return False
    later = names.index(other.name) > names.index(step.name)
    return later or bool(step.rounds and step.rounds[:1] == other.rounds[:1])
