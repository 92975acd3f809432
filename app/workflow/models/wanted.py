"""Brings everything that a plan loads: its steps are resolved with a `find` that fetches.

What an index names is known when the index is here, so the resolver asks for one model after the
other. What only the worker can tell is not asked for here, and the worker asks for it itself: of a
modular pipeline's workflow the components (its blocks say which), and whose configuration a file
has that may hold code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from app.errors import LoadError, WorkbenchError
from app.workflow.models.adapters import adapters_of
from app.workflow.models.hub import Choose, Place, snapshot_folder
from app.workflow.models.resolve import component_specs
from app.workflow.models.specs import ComponentSpec, Find, Selection, Unknown
from app.workflow.plan import LoadingStep, PipelineStep, Plan, SubWorkflowStep, TaskStep
from app.workflow.plan_sources import ModelSource


class Wanted(NamedTuple):
    """A model of the hub, and which of its files are wanted beside its text files."""

    source: ModelSource
    choose: Choose


def exactly(names: Sequence[str]) -> Choose:
    """These files."""
    return lambda _files: names


def found_by(bring: Callable[[Wanted], None], place: Place) -> Find:
    """A `find` that has each model of the hub brought to the place before it says where it is."""

    def find(source: ModelSource, wanted: Selection) -> Path:
        if source.folder is not None:
            return Path(source.folder)
        bring(Wanted(source, wanted.of))
        folder = snapshot_folder(place, source.model, source.revision)
        if folder is None:
            raise LoadError(f"'{source.model}' could not be brought.")
        return folder

    return find


def bring_all(plan: Plan, bring: Callable[[Wanted], None], place: Place) -> None:
    """Has everything brought that the plan's steps load of the hub's models.

    Raises what `bring` raises. What else is wrong with a step is told by its load.
    """
    failed: list[WorkbenchError] = []

    def noted(model: Wanted) -> None:
        try:
            bring(model)
        except WorkbenchError as error:
            failed.append(error)
            raise

    find = found_by(noted, place)
    earlier: dict[str, Iterable[ComponentSpec]] = {}
    for step in plan.steps:
        if isinstance(step, SubWorkflowStep) or _is_local(step):
            continue
        try:
            _resolve(step, find, earlier)
        except (LoadError, Unknown):
            if failed:
                raise


def _resolve(step: LoadingStep, find: Find, earlier: dict[str, Iterable[ComponentSpec]]) -> None:
    if isinstance(step, PipelineStep) and step.code is not None:
        find(step.code, Selection(code=True))
    adapters_of(step, find)
    before = {name: tuple(components) for name, components in earlier.items()}
    earlier[step.name] = component_specs(step, find, before).components


def _is_local(step: PipelineStep | TaskStep) -> bool:
    """Whether nothing of the step can lie anywhere but in folders of this machine."""
    described = [(block.source, block.config) for block in step.components.values()]
    if isinstance(step, PipelineStep):
        if step.modular is not None:
            # Its index may name other repositories.
            return False
        if step.source is not None:
            described.append((step.source, step.config))
    for source, config in described:
        # Without a configuration a file has that of a published model.
        needs_one = config is None and source.file and not isinstance(step, TaskStep)
        if needs_one or (config is not None and config.folder is None):
            return False
    return all(source.folder is not None for source in step.sources)
