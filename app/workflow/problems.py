"""Noting what is wrong with a document: all of it, up to what anybody reads."""

from __future__ import annotations

from app.errors import Problem
from app.workflow.references import Path, place

MAX_PROBLEMS = 100


class TooManyProblems(Exception):
    """Nobody reads more; a document that is wrong everywhere must not keep the planner busy."""


def problem(problems: list[Problem], path: Path, message: str, hint: str = "") -> None:
    """Note one thing that is wrong at this place. Raises TooManyProblems."""
    if len(problems) >= MAX_PROBLEMS:
        raise TooManyProblems
    problems.append(Problem(place=place(path), message=message, hint=hint))
