"""The visit that a browser keeps, treated as untrusted: nothing in it names a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.dialect.inputs import InputSpec

MAX_TEXT = 100_000
Typed = Annotated[str, StringConstraints(max_length=MAX_TEXT)] | bool | int | float | None


class Visit(BaseModel):
    """Person, last chosen workflow, and texts typed into the forms."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    person: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""
    workflow: Annotated[str, Field(max_length=500)] = ""
    forms: Annotated[
        dict[str, Annotated[dict[str, Typed], Field(max_length=500)]], Field(max_length=500)
    ] = {}


def read_visit(given: Any) -> dict[str, Any]:
    """Returns the visit that a browser has sent; a new one where it is not valid."""
    try:
        return Visit.model_validate(given if given is not None else {}).model_dump()
    except ValidationError:
        return Visit().model_dump()


def typed_only(inputs: Iterable[InputSpec], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values typed into a form's fields, without files: browsers keep no uploads."""
    return {
        spec.name: kept[spec.name] for spec in inputs if spec.media is None and spec.name in kept
    }
