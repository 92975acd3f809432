"""A plan → what its steps load: made once when a run is prepared, and read by everybody after."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from app.errors import WorkbenchError
from app.workflow.fingerprint import identify_file
from app.workflow.models.adapters import adapter_identities, with_adapters
from app.workflow.models.component_files import identities
from app.workflow.models.model_index import INDEX
from app.workflow.models.resolve import component_specs
from app.workflow.models.specs import Find, PlanSpecs, Selection, StepSpecs, known_folder
from app.workflow.plan import PipelineStep, Step, SubWorkflowStep, TaskStep, for_device

log = logging.getLogger(__name__)


def plan_specs(
    steps: Iterable[Step], find: Find = known_folder, *, accelerator: bool = False
) -> PlanSpecs:
    """Returns what a plan's steps load, from files' headers.

    A step is left out where it cannot be told here what it loads, and so is a step that reuses a
    component of such a one. Whatever is wrong with a model's files, the run itself tells it.
    """
    found: dict[str, StepSpecs] = {}
    is_whole = True
    for planned in steps:
        step = for_device(planned, accelerator=accelerator)
        if isinstance(step, SubWorkflowStep) or (isinstance(step, TaskStep) and not step.sources):
            continue
        reused = {*step.reused.values()} if isinstance(step, PipelineStep) else set()
        if not reused <= found.keys():
            is_whole = False
            continue
        earlier = {name: each.components for name, each in found.items()}
        try:
            if isinstance(step, PipelineStep) and step.code is not None:
                find(step.code, Selection(code=True))
            specs = component_specs(step, find, earlier, accelerator=accelerator)
            specs = with_adapters(specs, step, find)
        except WorkbenchError:
            is_whole = False
        except Exception:
            is_whole = False
            log.warning("What step '%s' loads could not be told", step.name, exc_info=True)
        else:
            # What it reuses may turn out to be another component too.
            is_final = specs.is_final and all(found[name].is_final for name in reused)
            found[step.name] = replace(specs, is_final=is_final)
    return PlanSpecs(found, is_whole, accelerator)


def are_current(specs: PlanSpecs) -> bool:
    """Returns whether the files that the final specs were made from are still the same."""
    return all(map(_is_current, (each for each in specs.steps.values() if each.is_final)))


def _is_current(specs: StepSpecs) -> bool:
    """Whether the files that the specs were made from are still the same."""
    try:
        if specs.index is not None and identify_file(specs.folder / INDEX) != specs.index:
            return False
        adapters = [*specs.loras, *([specs.ip_adapter] if specs.ip_adapter else [])]
        return all(identities(each) == each.files for each in specs.components) and all(
            adapter_identities(each.folder, each.file) == each.files for each in adapters
        )
    except OSError:
        return False
