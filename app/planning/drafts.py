"""Plans a workflow with its defaults as far as possible, even if it needs inputs to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from app.dialect.inputs import check_inputs
from app.dialect.loader import RawDocument
from app.dialect.plan import Step
from app.planning.declarations import declared_inputs
from app.planning.model_names import NO_FOLDER, NOT_A_MODEL
from app.planning.planner import planned
from app.settings import PathSettings

NO_FILE = re.compile(r"^There is no file '|' has no \S+\.safetensors\.$")
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
    is_refused: bool = False
    """True if it cannot run with the defaults of its inputs, and all of them have one."""


def draft_plan(raw: RawDocument, paths: PathSettings) -> Draft:
    """Returns the draft of a document. Raises InvalidWorkflow."""
    declared = declared_inputs(raw)
    values, _ = check_inputs(declared, {}, paths.media)
    planning = planned(raw, values, paths)
    messages = [found.message for found in planning.problems]
    lacks_file = any(
        NO_FILE.search(each.message) and PLACE_OF_FILE.search(each.place)
        for each in planning.problems
    )
    lacks_folder = any(NO_FOLDER in each or NOT_A_MODEL in each for each in messages)
    # An input without a default may be what is wrong.
    refused = bool(messages) and all(spec.default is not None for spec in declared)
    return Draft(tuple(planning.steps), tuple(planning.files), lacks_folder, lacks_file, refused)
