"""Keeps a run's uploads beside the results, by content, also for a later server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from pydantic import JsonValue

from app.dialect.plan import Plan
from app.dialect.plan_values import FileValue, Value
from app.outputs import naming_disk_errors, replacing
from app.planning.plan_media import media_files, with_files

FOLDER = "inputs"
NAME = re.compile(rf"\b{FOLDER}/([0-9a-f]{{64}}(?:\.\w+)?)")


def names_in(text: str) -> set[str]:
    """Returns the names of kept files in this text."""
    return set(NAME.findall(text))


def with_kept_inputs(plan: Plan, uploads: Path, outputs: Path) -> Plan:
    """Returns the plan with every upload kept as `inputs/<sha256>.<suffix>` below `outputs`.

    Raises ResultError if that cannot be written.
    """
    folder = outputs.resolve() / FOLDER
    moved: dict[str, str] = {}

    def kept(value: Value) -> Value:
        if not isinstance(value, FileValue):
            return value
        path = Path(value.path)
        if not path.is_relative_to(uploads):
            return value
        if value.path not in moved:
            target = folder / f"{value.sha256}{path.suffix.lower()}"
            _keep(path, target)
            moved[value.path] = str(target)
        return value.model_copy(update={"path": moved[value.path]})

    if not any(Path(path).is_relative_to(uploads) for path in media_files(plan)):
        return plan
    with naming_disk_errors(folder):
        plan = with_files(plan, kept)
    return plan.model_copy(update={"inputs": _renamed(plan.inputs, moved)})


def _keep(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        # Touched, so that it is not removed before this run is in the history.
        target.touch()
        return
    with contextlib.suppress(OSError):
        # A hard link, if both folders are on one disk.
        os.link(path, target)
        target.touch()
        return
    with path.open("rb") as source, replacing(target) as file:
        shutil.copyfileobj(source, file)


def _renamed(value: JsonValue, moved: dict[str, str]) -> JsonValue:
    if isinstance(value, str):
        return moved.get(value, value)
    if isinstance(value, list):
        return [_renamed(item, moved) for item in value]
    if isinstance(value, dict):
        return {name: _renamed(item, moved) for name, item in value.items()}
    return value
