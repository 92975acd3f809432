"""A document's declarations: its variables, and the form fields for them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from app.dialect.document import InputBlock
from app.dialect.files import can_be_path, path_from
from app.dialect.inputs import VARIABLE_NAME, InputSpec, contradiction, input_specs
from app.dialect.loader import RawDocument, read_document
from app.dialect.references import MAX_PROBLEMS, TooManyNodes, parse, place, substitute
from app.errors import InvalidWorkflow, Problem, WorkbenchError, nearest, shortened
from app.mistakes import in_words
from app.planning.forms import children_of, derived_blocks, label
from app.settings import BUILTIN_WORKFLOWS, SHIPPED_WORKFLOWS

MAX_VARIABLES = 200
"""Each is a field of a form; real documents have ten."""
MAX_VARIABLES_BYTES = 1_000_000
"""Their defaults are sent to every page that is opened."""
MAX_DEPTH = 8
"""Greatest nesting of sub-workflows."""


def declared_inputs(raw: RawDocument, *, deep: bool = True) -> tuple[InputSpec, ...]:
    """Returns the document's inputs. Raises InvalidWorkflow where the declarations are malformed.

    With `deep`, inputs of sub-workflows describe the variables passed to them.
    """
    variables = raw.tree.get("variables", {})
    blocks = raw.tree.get("inputs", {})
    problems: list[Problem] = []
    if not isinstance(variables, dict):
        problems.append(Problem(place="variables", message="An object is needed."))
        variables = {}
    if not isinstance(blocks, dict):
        problems.append(Problem(place="inputs", message="An object is needed."))
        blocks = {}
    if len(variables) > MAX_VARIABLES:
        message = f"The document declares {len(variables)} variables; {MAX_VARIABLES} at most."
        _refuse_for([Problem(place="variables", message=message)], raw)
    if (size := len(json.dumps(variables))) > MAX_VARIABLES_BYTES:
        message = f"The variables hold {size:,} characters; {MAX_VARIABLES_BYTES:,} at most."
        _refuse_for([Problem(place="variables", message=message)], raw)
    problems += [
        Problem(
            place=place(("variables", name)),
            message=f"'{shortened(name)}' is not a name for a variable.",
            hint="A name has letters, digits, _ and -, and begins with a letter or _.",
        )
        for name in variables
        if not VARIABLE_NAME.fullmatch(name)
    ]
    parsed: dict[str, InputBlock] = {}
    for name, block in blocks.items():
        if len(problems) >= MAX_PROBLEMS:
            # Finding the nearest name of each takes long, and nobody reads so many.
            break
        if name not in variables:
            problems.append(
                Problem(
                    place=f"inputs.{name}",
                    message=f"There is no variable '{name}'.",
                    hint=nearest(name, variables),
                )
            )
            continue
        try:
            parsed[name] = InputBlock.model_validate(block)
        except ValidationError as error:
            problems += [_problem(name, wrong) for wrong in error.errors()[:MAX_PROBLEMS]]
    _refuse_for(problems, raw)
    derived = derived_blocks(raw.tree, _Children().blocks(raw) if deep else {})
    asked = {
        name: _overridden(derived.get(name, InputBlock(label=label(name))), parsed.get(name))
        for name in variables
    }
    specs = input_specs(_defaults(raw, variables), asked)
    pictures = {spec.name for spec in specs if spec.kind == "image"}
    for spec in specs:
        if spec.name in parsed and (wrong := contradiction(spec, pictures)):
            hint = nearest(spec.mask_of, pictures) if spec.mask_of else ""
            problems.append(Problem(place=f"inputs.{spec.name}", message=wrong, hint=hint))
    _refuse_for(problems, raw)
    return specs


def _refuse_for(problems: list[Problem], raw: RawDocument) -> None:
    if problems:
        raise InvalidWorkflow(f"'{raw.path.stem}' is not a valid workflow.", problems)


def _problem(name: str, wrong: ErrorDetails) -> Problem:
    where = place(("inputs", name, *wrong["loc"]))
    if wrong["type"] != "extra_forbidden":
        message, hint = in_words(wrong)
        return Problem(place=where, message=message, hint=hint)
    key = str(wrong["loc"][-1])
    hint = nearest(key, InputBlock.model_fields)
    return Problem(place=where, message=f"'{key}' is not a known key.", hint=hint)


def child_path(parent: Path, named: str) -> Path:
    """Returns the path of a sub-workflow's file. Raises InvalidWorkflow for a forbidden name."""
    if parse(named) is not None or not can_be_path(parent.parent / named):
        raise InvalidWorkflow(f"'{shortened(named)}' is not a path.")
    if named.startswith("builtin:"):
        name = named.removeprefix("builtin:")
        if "/" in name or "\\" in name:
            raise InvalidWorkflow(f"'{named}' has to name a shipped workflow, without folders.")
        builtin = BUILTIN_WORKFLOWS / name
        return (builtin if builtin.is_file() else SHIPPED_WORKFLOWS / name).resolve()
    path = path_from(parent.parent, named).resolve()
    if not path.is_relative_to(parent.parent.resolve()):
        raise InvalidWorkflow(f"'{named}' lies outside the folder of '{parent.name}'.")
    return path


def _overridden(derived: InputBlock, own: InputBlock | None) -> InputBlock:
    """Returns the derived block, overridden by the document's own."""
    if own is None:
        return derived
    told = {key: getattr(derived, key) for key in derived.model_fields_set}
    said = {key: getattr(own, key) for key in own.model_fields_set}
    if said.keys() & {"choices", "mask_of"} or {"minimum", "maximum"} <= said.keys():
        # These imply the kind of field.
        told.pop("kind", None)
    return InputBlock(**{**told, "group": "", **said})


class _Children:
    """Input blocks of sub-workflows; each file is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, Mapping[str, InputBlock]] = {}

    def blocks(
        self, raw: RawDocument, depth: int = MAX_DEPTH
    ) -> dict[str, Mapping[str, InputBlock]]:
        """Returns the blocks by the step that runs the sub-workflow. An unreadable one is skipped
        here; the planner reports it."""
        found = {}
        for step, named in children_of(raw.tree) if depth else ():
            with contextlib.suppress(WorkbenchError):
                found[step] = self._of(child_path(raw.path, named), depth - 1)
        return found

    def _of(self, path: Path, depth: int) -> Mapping[str, InputBlock]:
        if path not in self._known:
            # Empty while the file is read: it may run itself.
            self._known[path] = {}
            child = read_document(path)
            own = _own_blocks(child)
            self._known[path] = {
                name: _overridden(block, own.get(name))
                for name, block in derived_blocks(child.tree, self.blocks(child, depth)).items()
            }
        return self._known[path]


def _own_blocks(raw: RawDocument) -> dict[str, InputBlock]:
    blocks = raw.tree.get("inputs")
    found = {}
    for name, block in (blocks if isinstance(blocks, dict) else {}).items():
        with contextlib.suppress(ValidationError):
            found[name] = InputBlock.model_validate(block)
    return found


def _defaults(raw: RawDocument, variables: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns each variable's value without inputs: one may be another's default."""
    try:
        found = substitute(variables, variables, frozenset(), frozenset())
    except TooManyNodes:
        raise InvalidWorkflow(f"'{raw.path.name}' has circular variables.") from None
    return dict(found.tree)
