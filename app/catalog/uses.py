"""What a workflow makes, and which of its inputs feeds which argument of a pipeline."""

from __future__ import annotations

import contextlib
from typing import Any

from app.dialect.loader import RawDocument, read_document
from app.dialect.references import parse
from app.errors import WorkbenchError
from app.planning.declarations import MAX_DEPTH, child_path
from app.planning.forms import children_of, uses_of_variables


def fed_arguments(tree: dict[str, Any]) -> dict[str, str]:
    """Returns the variable that feeds each argument of a pipeline; of several steps, the first."""
    found: dict[str, str] = {}
    for name, uses in uses_of_variables(tree).items():
        for use in uses:
            match use.path:
                case ("pipeline" | "pipeline_reference", "arguments", str(argument)):
                    found.setdefault(argument, name)
    return found


def result_type(raw: RawDocument, depth: int = MAX_DEPTH) -> str:
    """Returns the content type of the workflow's final results; "" where no step saves any."""
    steps, variables = raw.tree.get("steps"), raw.tree.get("variables")
    children = dict(children_of(raw.tree))
    for step in reversed(steps if isinstance(steps, list) else []):
        if not isinstance(step, dict):
            continue
        result = step.get("result")
        if isinstance(result, dict) and result.get("save", True) is not False:
            kind = result.get("content_type")
            reference = parse(kind)
            if reference is not None:
                kind = variables.get(reference.target) if isinstance(variables, dict) else None
            return kind if isinstance(kind, str) else ""
        named = children.get(str(step.get("name")))
        if result is None and named is not None and depth:
            # The planner reports a sub-workflow that cannot be read.
            with contextlib.suppress(WorkbenchError):
                child = read_document(child_path(raw.path, named))
                if found := result_type(child, depth - 1):
                    return found
    return ""
