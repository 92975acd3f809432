"""Plans a workflow with its defaults as far as possible, even if it needs inputs to run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from app.dialect.inputs import check_inputs
from app.dialect.loader import RawDocument
from app.dialect.plan import Step
from app.errors import Problem
from app.planning.declarations import declared_inputs
from app.planning.pipelines import NO_FOLDER, NOT_A_MODEL
from app.planning.planner import planned
from app.settings import PathSettings


class Draft(NamedTuple):
    """The known steps of a workflow."""

    steps: tuple[Step, ...]
    """The steps without a mistake."""
    files: tuple[Path, ...]
    """The documents that were read."""
    lacks_folder: bool
    """True if it names a missing folder, or one without a model."""
    problems: tuple[Problem, ...] = ()
    """The mistakes of the other steps, with the defaults of its inputs."""


def draft_plan(raw: RawDocument, paths: PathSettings) -> Draft:
    """Returns the draft of a document. Raises InvalidWorkflow."""
    values, _ = check_inputs(declared_inputs(raw), {}, paths.media)
    planning = planned(raw, values, paths)
    problems = tuple(planning.problems)
    messages = [found.message for found in problems]
    lacks_folder = any(NO_FOLDER in each or NOT_A_MODEL in each for each in messages)
    return Draft(tuple(planning.steps), tuple(planning.files), lacks_folder, problems)
