"""What of a workflow can be planned with its defaults, also where it takes inputs to run it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from app.settings import PathSettings
from app.workflow.declarations import declared_inputs
from app.workflow.inputs import check_inputs
from app.workflow.loader import RawDocument
from app.workflow.plan import Step
from app.workflow.planning.pipelines import NO_FOLDER, NOT_A_MODEL
from app.workflow.planning.planner import planned


class Draft(NamedTuple):
    """The steps of a workflow as far as they are known."""

    steps: tuple[Step, ...]
    """Those without a mistake."""
    files: tuple[Path, ...]
    """The documents that were read."""
    lacks_folder: bool
    """Whether it names the folder of a model that is not there, or is none of a model."""


def draft_plan(raw: RawDocument, paths: PathSettings) -> Draft:
    """Returns the draft of a document. Raises InvalidWorkflow."""
    values, _ = check_inputs(declared_inputs(raw), {}, paths.media)
    planning = planned(raw, values, paths)
    messages = (found.message for found in planning.problems)
    lacks_folder = any(NO_FOLDER in each or NOT_A_MODEL in each for each in messages)
    return Draft(tuple(planning.steps), tuple(planning.files), lacks_folder)
