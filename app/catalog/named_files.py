"""Finds out whether the single files that a workflow names on the hub are on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from app.dialect.files import safe_name
from app.dialect.plan import PipelineStep, Step
from app.dialect.plan_sources import ModelSource
from app.models.hub import listed_files, snapshot_folder, this_machine


class MissingFiles(NamedTuple):
    """The models whose named files are not here."""

    to_download: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Those that have no file of the name, as far as their lists tell."""


def missing_files(steps: Iterable[Step]) -> MissingFiles:
    """Returns the hub models whose named files are missing; planning looks for local files."""
    to_download: list[str] = []
    unknown: list[str] = []
    for source, name in (each for step in steps for each in _named(step)):
        folder = snapshot_folder(this_machine(), source.model, source.revision)
        listed = listed_files(source.model, source.revision)
        chosen = safe_name(name, listed, allow_pickles=True) or name
        if folder is not None and (folder / chosen).is_file():
            continue
        (unknown if listed and chosen not in listed else to_download).append(source.model)
    return MissingFiles(tuple(to_download), tuple(unknown))


def _named(step: Step) -> Iterator[tuple[ModelSource, str]]:
    named = [(source, source.file) for source in step.sources]
    if isinstance(step, PipelineStep):
        named += [(each.source, _path(each.source, each.weight_name)) for each in step.loras]
        named += [(each.source, _path(each.source, each.weight_name)) for each in step.ip_adapters]
    return ((source, name) for source, name in named if name and source.folder is None)


def _path(source: ModelSource, name: str | None) -> str:
    return str(PurePosixPath(source.subfolder, name)) if name else ""
