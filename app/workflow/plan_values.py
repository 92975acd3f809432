"""What an argument of a step may be. What a person typed can only become a Literal or a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from app.frozen import Frozen
from app.media.files import MediaKind
from app.workflow.plan_settings import DType


class LiteralValue(Frozen):
    """A JSON value taken as it stands; never looked at again for prefixes or names."""

    type: Literal["literal"] = "literal"
    value: JsonValue


class FileValue(Frozen):
    """A file of media, checked when the plan was made; the worker reads images as RGB."""

    type: Literal["file"] = "file"
    kind: MediaKind
    path: str
    sha256: str
    """Of the file's bytes: which file it was, also after it has gone."""


class RemoteValue(Frozen):
    """Media behind a URL. The engine fetches it before the run: no worker ever sees one."""

    type: Literal["remote"] = "remote"
    kind: MediaKind
    url: str
    place: str
    """Where it stands in the document; starts every sentence about it."""


class ResultValue(Frozen):
    """What an earlier step of the same plan made; a step runs once per artifact it refers to."""

    type: Literal["result"] = "result"
    step: str
    property: str = ""
    handed_at: str = ""
    """The place where it is handed into a sub-workflow, "" for every other reference. The
    sub-workflow runs once per artifact, and in each of its rounds all references of this place are
    to the same one."""


class DTypeValue(Frozen):
    """A torch dtype, named in a key that ends in `dtype`."""

    type: Literal["dtype"] = "dtype"
    dtype: DType


class ListValue(Frozen):
    """A list with something other than plain JSON in it."""

    type: Literal["list"] = "list"
    items: tuple[Value, ...]


class ObjectValue(Frozen):
    """A mapping with something other than plain JSON in it."""

    type: Literal["object"] = "object"
    entries: dict[str, Value]


class BuiltValue(Frozen):
    """An object of one of diffusers' data classes, built anew for every call."""

    type: Literal["built"] = "built"
    class_name: str
    """Its name in DATA_CLASSES."""
    media: Value | None = None
    """The file or result that it is made of, as its class takes those of its kind."""
    arguments: dict[str, Value] = Field(default_factory=dict)


Value = Annotated[
    LiteralValue
    | FileValue
    | RemoteValue
    | ResultValue
    | DTypeValue
    | ListValue
    | ObjectValue
    | BuiltValue,
    Field(discriminator="type"),
]


def leaves_in(values: Iterable[Value]) -> Iterator[Value]:
    """These values and what is in them, in order: all that have no others in them."""
    for value in values:
        match value:
            case ListValue():
                yield from leaves_in(value.items)
            case ObjectValue():
                yield from leaves_in(value.entries.values())
            case BuiltValue():
                yield from leaves_in([value.media] if value.media else [])
                yield from leaves_in(value.arguments.values())
            case _:
                yield value


def references_in(values: Iterable[Value]) -> Iterator[ResultValue]:
    """The results that these values refer to, in order."""
    return (value for value in leaves_in(values) if isinstance(value, ResultValue))
