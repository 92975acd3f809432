"""Resolves what a plan's steps load, once when a run is prepared, for all later readers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from app.dialect.fingerprint import identify_file
from app.dialect.plan import PipelineStep, Step, SubWorkflowStep, TaskStep, for_device
from app.dialect.plan_sources import ModelSource
from app.errors import WorkbenchError
from app.models.adapters import adapter_identities, adapters_of
from app.models.component_files import identities
from app.models.model_index import INDEX
from app.models.resolve import component_specs
from app.models.specs import (
    Find,
    NotHere,
    PlanSpecs,
    Selection,
    StepSpecs,
    local_folder,
)

log = logging.getLogger(__name__)


def plan_specs(
    steps: Iterable[Step], find: Find = local_folder, *, accelerator: bool = False
) -> PlanSpecs:
    """Returns what a plan's steps load, from files' headers.

    Leaves out a step whose components are not known here, or that reuses one of such a step: the
    worker reports what is wrong with its model.
    """
    found: dict[str, StepSpecs] = {}
    is_whole = True
    missing: list[ModelSource] = []
    for planned in steps:
        step = for_device(planned, accelerator=accelerator)
        if isinstance(step, SubWorkflowStep) or (isinstance(step, TaskStep) and not step.sources):
            continue
        reused = {*step.reused.values()} if isinstance(step, PipelineStep) else set()
        earlier = {name: each.components for name, each in found.items()}
        try:
            if isinstance(step, PipelineStep) and step.code is not None:
                find(step.code, Selection(code=True))
            adapters = adapters_of(step, find)
            specs = component_specs(step, find, earlier, accelerator=accelerator)
        except NotHere as lacks:
            is_whole = False
            missing.append(lacks.source)
        except WorkbenchError:
            is_whole = False
        except Exception:
            # A damaged file may raise anything.
            is_whole = False
            log.warning("The components of step '%s' are not known", step.name, exc_info=True)
        else:
            if not reused <= found.keys():
                is_whole = False
                continue
            # A component that it reuses may turn out to be another one in the worker.
            is_final = specs.is_final and all(found[name].is_final for name in reused)
            found[step.name] = replace(specs, is_final=is_final, **adapters)
    return PlanSpecs(found, is_whole, accelerator, tuple(missing))


def are_current(specs: PlanSpecs) -> bool:
    """Returns True if the files of the final specs are unchanged."""
    return all(map(_is_current, (each for each in specs.steps.values() if each.is_final)))


def _is_current(specs: StepSpecs) -> bool:
    """Returns True if the files of the specs are unchanged."""
    try:
        if specs.index is not None and identify_file(specs.folder / INDEX) != specs.index:
            return False
        return all(identities(each) == each.files for each in specs.components) and all(
            adapter_identities(each.folder, each.file) == each.files for each in specs.adapters
        )
    except OSError:
        return False
