"""The order in which the steps of a plan run.

One runs after the other; those of a sub-workflow that is handed several results run once for each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from app.worker.context import RunContext
from app.worker.steps.arguments import rounds_of
from app.worker.steps.made import Made
from app.workflow.plan import Rounds, Step


def in_order(
    steps: Sequence[Step], running: Collection[str], context: RunContext, depth: int = 0
) -> Iterator[Step]:
    """Each step when its turn has come.

    Who is given one leaves what it makes in the context before asking for the next. After the last
    round of a sub-workflow what its steps made in all rounds is there. One of which nothing is
    among the `running` has no rounds: all that is needed of it is remembered.
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
            # In the next round of what this is part of, it is handed other results.
            context.handed.pop(reference.handed_at, None)
        context.results |= {name: Made(each) for name, each in returned.items()}


def comes_after(other: Step, step: Step, names: Sequence[str]) -> bool:
    """Whether the other step runs after this one, or again in a later round; `names` are those of
    the plan's steps."""
    if other.name == step.name:
        return False
    later = names.index(other.name) > names.index(step.name)
    return later or bool(step.rounds and step.rounds[:1] == other.rounds[:1])
