"""Plans a workflow with its defaults as far as possible, even if it needs inputs to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.inputs import InputSpec
from app.dialect.loader import RawDocument
from app.dialect.plan import Step
from app.dialect.plan_values import RemoteValue
from app.models.kind_folders import bare_names
from app.planning.declarations import declared_inputs
from app.planning.model_names import NO_FOLDER, NOT_A_MODEL
from app.planning.planner import planned
from app.settings import PathSettings

NO_FILE = re.compile(r"^There is no file '|' has no \S+\.safetensors\.$")
NOT_INSTALLED = " not installed."
PLACE_OF_FILE = re.compile(r"\.(from_single_file|weight_name)$")
"""What planning says of a missing file of weights, and where."""


class Draft(NamedTuple):
    """The known steps of a workflow."""

    steps: tuple[Step, ...]
    """The steps without a mistake."""
    files: tuple[Path, ...]
    """The documents that were read."""
    lacks_folder: bool
    """True if it names a missing folder, or one without a model."""
    lacks_file: bool = False
    """True if it names a local file of weights that is missing."""
    lacks_package: bool = False
    """True if it needs a package that is not installed."""
    is_refused: bool = False
    """True if it cannot run with the defaults of its inputs, and all of them have one."""


def draft_plan(raw: RawDocument, paths: PathSettings) -> Draft:
    """Returns the draft of a document. Raises InvalidWorkflow."""
    declared = declared_inputs(raw)
    values = {spec.name: found for spec in declared if (found := _example(spec, paths)) is not None}
    planning = planned(raw, values, paths)
    messages = [found.message for found in planning.problems]
    lacks_file = any(
        NO_FILE.search(each.message) and PLACE_OF_FILE.search(each.place)
        for each in planning.problems
    )
    lacks_folder = any(NO_FOLDER in each or NOT_A_MODEL in each for each in messages)
    # An input without a default may be what is wrong.
    given = all(spec.default is not None or spec.name in values for spec in declared)
    refused = bool(messages) and given
    return Draft(
        tuple(planning.steps),
        tuple(planning.files),
        lacks_folder,
        lacks_file,
        lacks_package=any(NOT_INSTALLED in each for each in messages),
        is_refused=refused,
    )


def _example(spec: InputSpec, paths: PathSettings) -> Any:
    """Returns a value that a person might give for an input without a default; None for any other,
    and where there is none."""
    if spec.default is not None:
        return None
    if spec.media is not None:
        return RemoteValue(kind=spec.media, url="", place="")
    if spec.models is not None and spec.required:
        return next(iter(bare_names(spec.models, paths)), None)
    return None
