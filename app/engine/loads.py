"""The components a run loads, by key, to compare with what a slot holds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from app.errors import WorkbenchError
from app.machine import expects_accelerator
from app.settings import WorkerSettings
from app.workflow.models.resolve import component_specs
from app.workflow.models.specs import ComponentSpec
from app.workflow.plan import Plan, SubWorkflowStep, for_device

log = logging.getLogger(__name__)


def loads_of(plan: Plan, settings: WorkerSettings) -> Mapping[str, int] | None:
    """Returns the bytes of the plan's components, by key; None if unknown here, for example because
    only the worker knows the components of a modular pipeline.

    Reads the files' headers.
    """
    accelerator = expects_accelerator(settings.split()[0].device)
    try:
        return {each.key: each.weight_bytes for each in specs_of(plan, accelerator=accelerator)}
    except WorkbenchError:
        return None
    except Exception:
        # The run itself will report what is wrong with the model's files.
        log.warning("The components of a run could not be determined", exc_info=True)
        return None


def specs_of(plan: Plan, *, accelerator: bool = False) -> Iterator[ComponentSpec]:
    """Yields the component specs of the plan's steps, in order. Raises as `component_specs`."""
    earlier: dict[str, Sequence[ComponentSpec]] = {}
    for planned in plan.steps:
        step = for_device(planned, accelerator=accelerator)
        if isinstance(step, SubWorkflowStep) or not step.sources:
            continue
        specs = component_specs(step, earlier=earlier, accelerator=accelerator)
        earlier[step.name] = specs.components
        yield from specs.components
