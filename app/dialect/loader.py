"""Reads a file into a raw document, and words the problems of a document."""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.dialect.document import KNOWN_KEYS, WorkflowDocument
from app.dialect.files import can_be_path
from app.dialect.inputs import unfit
from app.dialect.installed.constants import with_constants
from app.dialect.json_text import WrongJson, parse_json
from app.dialect.references import MAX_NODES, MAX_PROBLEMS, Path, count_nodes, place
from app.errors import InvalidWorkflow, Problem, UnknownWorkflow, nearest, shortened
from app.mistakes import in_words

MAX_DOCUMENT_BYTES = 50 * 1024 * 1024


class RawDocument(NamedTuple):
    """A workflow file as read: a JSON object, variables not substituted, nothing else checked."""

    path: pathlib.Path
    content: bytes
    tree: dict[str, Any]
    """Constants are replaced by their values."""
    wrong_constants: tuple[tuple[Path, str], ...] = ()
    """Places of constants that cannot be resolved, with the reason; the tree has null there."""
    warnings: tuple[str, ...] = ()
    """Probable mistakes that do not make the file invalid."""


def read_document(path: pathlib.Path) -> RawDocument:
    """Returns the document in this file. Raises UnknownWorkflow or InvalidWorkflow with a
    sentence."""
    if not can_be_path(path):
        raise UnknownWorkflow(f"No file can be called '{shortened(str(path))}'.")
    if path.suffix.lower() != ".json" or not path.is_file():
        message, hint = _no_file(path)
        raise UnknownWorkflow(message, hint=hint)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise InvalidWorkflow(f"'{path.name}' cannot be read: {error.strerror}.") from error
    if len(content) > MAX_DOCUMENT_BYTES:
        raise InvalidWorkflow(
            f"'{path.name}' is larger than 50 MiB; a workflow is a small document."
        )
    try:
        tree, repeated = parse_json(content)
    except WrongJson as error:
        raise InvalidWorkflow(
            f"'{path.name}' is not valid JSON.",
            [Problem(place=error.place, message=error.message, hint=error.hint)],
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidWorkflow(
            f"'{path.name}' is not UTF-8 text.", hint="Save it with that encoding."
        ) from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or endless nesting.
        raise InvalidWorkflow(f"'{path.name}' exceeds what a workflow can hold.") from error
    if not isinstance(tree, dict):
        raise InvalidWorkflow(f"'{path.name}' is not a workflow: a JSON object is needed.")
    if wrong := unfit(tree):
        where = Problem(place=place(_place_of_unfit(tree)), message=f"This {wrong}.")
        raise InvalidWorkflow(f"'{path.name}' {wrong}.", [where] if where.place else [])
    if count_nodes(tree) > MAX_NODES:
        raise InvalidWorkflow(
            f"'{path.name}' has more than {MAX_NODES} parts; a workflow is a small document."
        )
    warnings = tuple(
        f"{path.name}: The key '{shortened(key)}' occurs twice in one object; the last one counts."
        for key in repeated
    )
    return RawDocument(path, content, *with_constants(tree), warnings)


def _place_of_unfit(tree: Any) -> Path:
    """Returns the path of the first value that `unfit` rejects, as far as it can be followed."""
    path: Path = ()
    while isinstance(tree, dict | list):
        entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
        inner = next((key for key, value in entries if unfit(value) and not unfit(key)), None)
        if inner is None:
            break
        path, tree = (*path, inner), tree[inner]
    return path


def _no_file(path: pathlib.Path) -> tuple[str, str]:
    """Returns why there is no document at this path, and a similar one."""
    if path.is_dir():
        there = sorted(file.name for file in path.glob("*.json"))
        listed = f"It has: {shortened(', '.join(there))}." if there else "It has no .json file."
        return f"'{path}' is a folder; a workflow is a file.", listed
    if path.is_file():
        return f"'{path}' is not a workflow: its name does not end in .json.", ""
    siblings = [file.stem for file in path.parent.glob("*.json")] if path.parent.is_dir() else []
    return f"There is no workflow file '{path}'.", nearest(path.stem, siblings)


class Parsed(NamedTuple):
    """The valid part of a document, and the problems of the rest."""

    document: WorkflowDocument | None
    """Without the invalid steps; None where nothing is usable."""
    positions: tuple[int, ...]
    """The index in the file of each of its steps."""
    unread: tuple[str, ...]
    """The names of the invalid steps."""
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def parse_document(tree: dict[str, Any]) -> Parsed:
    """Returns the typed document and all its problems."""
    unknown = UnknownKeys()
    document, wrong = _validated(tree)
    extra = [_path(each, tree) for each in wrong if each["type"] == "extra_forbidden"]
    if extra:
        for path in extra[:MAX_PROBLEMS]:
            unknown.add(path)
        tree = without(tree, extra)
        document, wrong = _validated(tree)
    problems = [
        found for each in wrong[:MAX_PROBLEMS] if (found := _told(each, tree, unknown)) is not None
    ]
    steps = tree.get("steps")
    if document is not None or not isinstance(steps, list):
        positions = tuple(range(len(document.steps))) if document else ()
    else:
        broken = {path[1] for each in wrong
                  if len(path := _path(each, tree)) > 1 and path[0] == "steps"}  # fmt: skip
        positions = tuple(index for index in range(len(steps)) if index not in broken)
        sound = {"id": "unread", "steps": [steps[index] for index in positions]}
        seed = {"seed": tree["seed"]} if isinstance(tree.get("seed"), int) else {}
        document, _ = _validated({**sound, **seed})
    return Parsed(
        document,
        positions,
        _unread(steps, positions),
        (*unknown.problems, *problems, *itertools.islice(_repeated(steps), MAX_PROBLEMS)),
        tuple(unknown.warnings),
    )


def _validated(tree: dict[str, Any]) -> tuple[WorkflowDocument | None, list[ErrorDetails]]:
    try:
        return WorkflowDocument.model_validate(tree), []
    except ValidationError as error:
        # A list whose items are all wrong counts as empty too; only the items' problems are
        # reported.
        return None, [
            wrong
            for wrong in error.errors()
            if wrong["type"] != "too_short" or wrong["loc"] != ("steps",) or not wrong["input"]
        ]


def _unread(steps: Any, positions: tuple[int, ...]) -> tuple[str, ...]:
    if not isinstance(steps, list):
        return ()
    missing = [step for index, step in enumerate(steps) if index not in set(positions)]
    names = [step.get("name") for step in missing if isinstance(step, dict)]
    return tuple(name for name in names if isinstance(name, str))


def _repeated(steps: Any) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        name = step.get("name") if isinstance(step, dict) else None
        if not isinstance(name, str):
            continue
        if name in seen:
            yield Problem(
                place=place(("steps", index, "name")),
                message=f"Two steps are called '{name}'.",
                hint="Give each step its own name.",
            )
        seen.add(name)


KEYS_OF_THEIR_OWN = {"missing", "extra_forbidden"}
"""Errors whose place ends in a key that the document lacks, or that is removed from it."""


def _path(details: ErrorDetails, tree: Any) -> Path:
    """Returns the path in the tree of pydantic's location; names of its own types are left out."""
    loc = details["loc"]
    path: list[int | str] = []
    for position, part in enumerate(loc):
        inside = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if inside or (isinstance(tree, dict) and part in tree):
            tree = tree[part]
        elif position < len(loc) - 1 or details["type"] not in KEYS_OF_THEIR_OWN:
            continue
        path.append(part)
    return tuple(path)


def _told(details: ErrorDetails, tree: Any, unknown: UnknownKeys) -> Problem | None:
    """Returns the problem in words; None where an unknown key has explained it."""
    path = _path(details, tree)
    last = str(path[-1]) if path else ""
    hint = ""
    match details["type"]:
        case "missing":
            if unknown.explain(path[:-1], [last]):
                return None
            message = f"'{last}' is missing."
        case "union_tag_invalid":
            tag, offered = details["ctx"]["tag"], details["ctx"]["expected_tags"]
            message = f"There is no '{last}' of type '{shortened(tag)}', only {offered}."
            hint = nearest(tag, re.findall("'(.+?)'", offered))
        case "value_error" if path[:1] == ("steps",) and len(path) == 2:
            if unknown.explain(path, ACTIONS):
                return None
            message, hint = in_words(details)
        case _:
            message, hint = in_words(details)
            if path == ("seed",) and details["type"] == "greater_than_equal":
                hint = "Leave it out for another seed in every run."
    return Problem(place=place(path), message=message, hint=hint)


# --- unknown keys ---------------------------------------------------------------------------------

CLOSED = {
    "chain", "frame_snap", "ip_adapter", "scheduler", "audio_scheduler", "inputs", "compile",
    "group_offload", "enable_layerwise_casting", "teacache",
}  # fmt: skip
"""Blocks whose keys the dialect closes, or passes on to a call that would refuse others."""
CLOSED_LISTS = {"loras", "textual_inversions"}
ACTIONS = ("pipeline", "pipeline_reference", "task", "workflow")
"""A step has exactly one."""


def is_open(path: Path) -> bool:
    """Returns True if the dialect lets other software's keys stand beside this one."""
    above = [part for part in path[:-1] if isinstance(part, str)]
    if not above:
        return True
    closed_lists = above[-1] in CLOSED_LISTS or (len(above) > 1 and above[-2] == "inputs")
    configures_pipeline = above[-2:] == ["pipeline", "configuration"]
    return not (above[-1] in CLOSED or closed_lists or configures_pipeline)


def without(tree: Any, paths: Iterable[Path]) -> Any:
    """Returns the tree without these keys; the rest is shared, not copied."""
    removals: dict[str | int, Any] = {}
    for path in paths:
        inner = removals
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = None

    def rebuilt(value: Any, removed: dict[str | int, Any]) -> Any:
        if isinstance(value, dict):
            return {
                key: rebuilt(item, removed[key]) if key in removed else item
                for key, item in value.items()
                if key not in removed or removed[key] is not None
            }
        return [
            rebuilt(item, removed[index]) if index in removed else item
            for index, item in enumerate(value)
        ]

    return rebuilt(tree, removals)


class UnknownKeys:
    """Collects the unknown keys of one document."""

    def __init__(self) -> None:
        self._ignored: dict[Path, None] = {}
        self._refused: dict[Path, str] = {}
        """With a hint at a similar key."""

    def add(self, path: Path) -> None:
        """Adds the key at the end of this path."""
        if is_open(path):
            self._ignored[path] = None
        else:
            self._refused[path] = _near(path)

    def explain(self, path: Path, wanted: Iterable[str]) -> bool:
        """Returns True if one of the wanted keys is missing here because it is mistyped.

        The mistyped key is the mistake then, and is refused.
        """
        for each in (*self._ignored, *self._refused):
            hint = nearest(str(each[-1]), wanted) if each[:-1] == path else ""
            if hint:
                self._ignored.pop(each, None)
                self._refused[each] = hint
                return True
        return False

    @property
    def problems(self) -> list[Problem]:
        """One problem for every refused key."""
        return [
            Problem(
                place=place(path),
                message=f"'{path[-1]}' is not a known key{_here(path)}.",
                hint=hint,
            )
            for path, hint in self._refused.items()
        ]

    @property
    def warnings(self) -> list[str]:
        """One sentence for every ignored key."""
        return [
            f"{place(path)}: The key '{path[-1]}' is not known{_here(path)} and is ignored."
            f" {_near(path)}".rstrip()
            for path in self._ignored
        ]


def _here(path: Path) -> str:
    """Returns " here" for a key that is known elsewhere."""
    return " here" if path[-1] in KNOWN_KEYS else ""


def _near(path: Path) -> str:
    key = str(path[-1])
    return "" if key in KNOWN_KEYS else nearest(key, KNOWN_KEYS)
