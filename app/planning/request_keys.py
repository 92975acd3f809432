"""The key of a request: equal for requests that would make the same files again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import to_json

from app.dialect.fingerprint import computing_versions, identify_file, identity_of
from app.dialect.plan import Plan
from app.dialect.plan_sources import ModelSource
from app.models.specs import PlanSpecs


def request_key(plan: Plan, device: str = "auto", specs: PlanSpecs | None = None) -> str:
    """Returns the key of a plan's files.

    It covers the resolved steps with their seeds, the content of images, what the steps load, the
    libraries' versions and the device as the settings name it. What a step loads is read from
    `specs`; where they are not certain, it is every file of its local models, and for a model of
    the hub its name and revision.
    """
    described = [plan.workflow_id, device, computing_versions(), plan.limits.model_dump()]
    digest = hashlib.sha256(json.dumps(described).encode())
    for step in plan.steps:
        digest.update(step.model_dump_json().encode())
        found = None if specs is None else specs.steps.get(step.name)
        if found is not None and found.is_final:
            digest.update(to_json(found.identity))
            continue
        for source in step.sources:
            digest.update(_identity_of_source(source).encode())
    return digest.hexdigest()


def is_certain(plan: Plan, specs: PlanSpecs | None) -> bool:
    """Returns True if `specs` are certain for each step, so that the key needs no look at files."""
    steps = {} if specs is None else specs.steps
    return all(
        step.name in steps and steps[step.name].is_final for step in plan.steps if step.sources
    )


def _identity_of_source(source: ModelSource) -> str:
    if source.folder is None:
        return ""
    if source.file:
        return identify_file(Path(source.folder) / source.file).model_dump_json()
    # Resolved once: resolving the path of each file would take most of a request key's time.
    files = _files_below(os.path.realpath(source.folder))
    return "".join(identity_of(file).model_dump_json() for file in files)


def _files_below(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yields all files below this folder, in order; none where it cannot be listed, which the load
    reports."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path)
        elif entry.is_file():
            yield entry
