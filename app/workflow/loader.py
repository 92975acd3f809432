"""File → JSON → raw document, and the wording of what is wrong with a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.errors import InvalidWorkflow, Problem, UnknownWorkflow, nearest
from app.workflow.document import KNOWN_KEYS, NOT_YET_SUPPORTED, WorkflowDocument
from app.workflow.files import can_be_path
from app.workflow.inputs import unfit
from app.workflow.references import place

MAX_DOCUMENT_BYTES = 50 * 1024 * 1024


class RawDocument(NamedTuple):
    """A workflow file as read: nothing substituted, nothing checked beyond being a JSON object."""

    path: Path
    content: bytes
    tree: dict[str, Any]
    warnings: tuple[str, ...]


def read_document(path: Path) -> RawDocument:
    """The document in this file. Raises UnknownWorkflow or InvalidWorkflow with a sentence."""
    if not can_be_path(path):
        raise UnknownWorkflow(f"No file can be called '{shortened(str(path))}'.")
    if path.suffix != ".json" or not path.is_file():
        siblings = (
            [file.stem for file in path.parent.glob("*.json")] if path.parent.is_dir() else []
        )
        raise UnknownWorkflow(
            f"There is no workflow file '{path}'.", hint=nearest(path.stem, siblings)
        )
    content = path.read_bytes()
    if len(content) > MAX_DOCUMENT_BYTES:
        raise InvalidWorkflow(
            f"'{path.name}' is larger than 50 MiB; a workflow is a small document."
        )
    try:
        tree = json.loads(content)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidWorkflow(
            f"'{path.name}' is not valid JSON.", [Problem(place=where, message=f"{error.msg}.")]
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidWorkflow(f"'{path.name}' is not UTF-8 text.") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, lists in lists without end.
        raise InvalidWorkflow(f"'{path.name}' is beyond what a workflow can hold.") from error
    if not isinstance(tree, dict):
        raise InvalidWorkflow(f"'{path.name}' is not a workflow: a JSON object is needed.")
    if wrong := unfit(tree):
        raise InvalidWorkflow(f"'{path.name}' {wrong}.")
    return RawDocument(path, content, *_without_unknown_keys(tree))


def _without_unknown_keys(tree: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The dialect ignores unknown top-level keys; here they are ignored aloud."""
    known = WorkflowDocument.model_fields
    unknown = [key for key in tree if key not in known]
    warnings = tuple(
        f"The top-level key '{key}' is not known and is ignored. {nearest(key, known)}".rstrip()
        for key in unknown
    )
    return {key: value for key, value in tree.items() if key in known}, warnings


def parse_document(tree: dict[str, Any]) -> tuple[WorkflowDocument | None, list[Problem]]:
    """The typed document, or None and everything that is wrong with it."""
    try:
        document = WorkflowDocument.model_validate(tree)
    except ValidationError as error:
        # A list whose items are all wrong counts as empty too; only what is wrong in them is told.
        found = [
            wrong for wrong in error.errors() if wrong["type"] != "too_short" or not wrong["input"]
        ]
        return None, [_problem(details) for details in found]
    names = [step.name for step in document.steps]
    repeated = [
        Problem(
            place=f"steps[{index}].name",
            message=f"Two steps are called '{name}'.",
            hint="Give each step its own name.",
        )
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    return document, repeated


def shortened(text: str) -> str:
    """The text, cut where a sentence would drown in it."""
    return text if len(text) <= 60 else f"{text[:57]}…"


def _problem(details: ErrorDetails) -> Problem:
    path = tuple(part for part in details["loc"] if part != "component_blocks")
    where, last = place(path), str(path[-1]) if path else ""
    match details["type"]:
        case "extra_forbidden" if last in NOT_YET_SUPPORTED:
            message, hint = f"'{last}' is not yet supported.", ""
        case "extra_forbidden":
            message, hint = f"'{last}' is not a known key.", nearest(last, KNOWN_KEYS)
        case "missing":
            message, hint = f"'{last}' is missing.", ""
        case "literal_error":
            given = details["input"]
            offered = details["ctx"]["expected"]
            message, hint = f"{given!r} is not one of {offered}.", ""
        case "union_tag_invalid":
            tag, offered = details["ctx"]["tag"], details["ctx"]["expected_tags"]
            message, hint = f"A '{last}' of type '{tag}' is not yet supported, only {offered}.", ""
        case "value_error":
            message, hint = f"{details['ctx']['error']}.", ""
        case _:
            message, hint = f"{details['msg']}, not {_short(details['input'])}.", ""
    return Problem(place=where, message=message[0].upper() + message[1:], hint=hint)


def _short(value: object) -> str:
    return shortened(json.dumps(value, default=str))
