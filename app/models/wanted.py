"""Downloads everything that a plan loads: its steps are resolved with a `find` that fetches.

An index's contents are known only once it is local, so the resolver asks for one model after the
other. Needs that only the worker knows are requested by the worker itself: components of a modular
pipeline's workflow (its blocks name them), and the configuration of a file that may hold code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from app.dialect.plan import LoadingStep, PipelineStep, Plan, SubWorkflowStep, TaskStep
from app.dialect.plan_sources import ModelSource
from app.errors import LoadError, WorkbenchError
from app.models.adapters import adapters_of
from app.models.hub import Choose, Place, snapshot_folder
from app.models.resolve import component_specs
from app.models.specs import ComponentSpec, Find, Selection, Unknown


class Wanted(NamedTuple):
    """A hub model, and the choice of its files."""

    source: ModelSource
    choose: Choose


def exactly(names: Sequence[str]) -> Choose:
    """Returns a choice of exactly these files."""
    return lambda _files: names


def found_by(bring: Callable[[Wanted], None], place: Place) -> Find:
    """Returns a `find` that downloads each hub model to the place before it returns the folder."""

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
    """Downloads everything that the plan's steps load from the hub.

    Raises exceptions of `bring`. Loading a step reports its other problems.
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
    """Returns True if the step needs only folders of this machine."""
    described = [(block.source, block.config) for block in step.components.values()]
    if isinstance(step, PipelineStep):
        if step.modular is not None:
            # Its index may name other repositories.
            return False
        if step.source is not None:
            described.append((step.source, step.config))
    for source, config in described:
        # A file without a configuration has that of a published model.
        needs_one = config is None and source.file and not isinstance(step, TaskStep)
        if needs_one or (config is not None and config.folder is None):
            return False
    return all(source.folder is not None for source in step.sources)
