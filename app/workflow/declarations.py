"""What a document declares: its variables, and how it asks for them."""

from __future__ import annotations

from pydantic import JsonValue, ValidationError

from app.errors import InvalidWorkflow, Problem, nearest
from app.workflow.document import InputBlock
from app.workflow.inputs import VARIABLE_NAME, InputSpec, input_specs
from app.workflow.loader import RawDocument
from app.workflow.references import TooManyNodes, place, substitute


def declared_inputs(raw: RawDocument) -> tuple[InputSpec, ...]:
    """What the document asks for. Raises InvalidWorkflow where that part is malformed."""
    variables = raw.tree.get("variables", {})
    blocks = raw.tree.get("inputs", {})
    problems: list[Problem] = []
    if not isinstance(variables, dict):
        problems.append(Problem(place="variables", message="An object is needed."))
        variables = {}
    if not isinstance(blocks, dict):
        problems.append(Problem(place="inputs", message="An object is needed."))
        blocks = {}
    problems += [
        Problem(place=f"variables.{name}", message=f"'{name}' is not a name for a variable.")
        for name in variables
        if not VARIABLE_NAME.fullmatch(name)
    ]
    parsed: dict[str, InputBlock] = {}
    for name, block in blocks.items():
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
            problems += [
                Problem(place=place(("inputs", name, *wrong["loc"])), message=f"{wrong['msg']}.")
                for wrong in error.errors()
            ]
    if problems:
        raise InvalidWorkflow(f"'{raw.path.stem}' is not a valid workflow.", problems)
    return input_specs(_defaults(raw, variables), parsed)


def _defaults(raw: RawDocument, variables: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What each variable is when nobody gives anything: one may be another's default."""
    try:
        found = substitute(variables, variables, frozenset(), frozenset())
    except TooManyNodes:
        raise InvalidWorkflow(f"'{raw.path.name}' has variables without end.") from None
    return dict(found.tree)
