"""What a run loads, by the key of each component: what a slot misses of it is told by that."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from app.errors import WorkbenchError
from app.machine import expects_accelerator
from app.settings import WorkerSettings
from app.workflow.dtypes import for_device
from app.workflow.models.resolve import component_specs
from app.workflow.models.specs import ComponentSpec
from app.workflow.plan import Plan, SubWorkflowStep

log = logging.getLogger(__name__)


def loads_of(plan: Plan, settings: WorkerSettings) -> Mapping[str, int] | None:
    """Returns the bytes of each component the plan's steps load; None where that is not known here,
    for example because only the worker knows what a modular pipeline loads.

    Reads files' headers.
    """
    accelerator = expects_accelerator(settings.split()[0].device)
    try:
        return {each.key: each.weight_bytes for each in specs_of(plan, accelerator=accelerator)}
    except WorkbenchError:
        return None
    except Exception:
        # Whatever is wrong with the model's files, the run itself tells it.
        log.warning("What a run loads could not be told", exc_info=True)
        return None


def specs_of(plan: Plan, *, accelerator: bool = False) -> Iterator[ComponentSpec]:
    """Yields what the plan's steps load, in their order; their files are the same on every device.

    Raises what `component_specs` raises.
    """
    earlier: dict[str, Sequence[ComponentSpec]] = {}
    for planned in plan.steps:
        step = for_device(planned, accelerator=accelerator)
        if isinstance(step, SubWorkflowStep) or not step.sources:
            continue
        specs = component_specs(step, earlier=earlier, accelerator=accelerator)
        earlier[step.name] = specs.components
        yield from specs.components
