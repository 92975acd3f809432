"""Values of a step's arguments. A typed value can only become a literal or a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from app.dialect.plan_settings import DType
from app.frozen import Frozen
from app.media.files import MediaKind


class LiteralValue(Frozen):
    """A JSON value, never examined for prefixes or names."""

    type: Literal["literal"] = "literal"
    value: JsonValue


class FileValue(Frozen):
    """A file of media, checked when the plan was made; the worker reads images as RGB."""

    type: Literal["file"] = "file"
    kind: MediaKind
    path: str
    is_mask: bool = False
    """True for a mask: of its transparent pixels the alpha counts."""
    sha256: str
    """SHA-256 of the file's bytes: identifies the file also after it has gone."""


class RemoteValue(Frozen):
    """Media behind a URL. The engine fetches it before the run: no worker ever sees one."""

    type: Literal["remote"] = "remote"
    kind: MediaKind
    is_mask: bool = False
    url: str
    place: str
    """Its place in the document; begins every message about it."""


class ResultValue(Frozen):
    """Results of an earlier step of the same plan; a step runs once per artifact it refers to."""

    type: Literal["result"] = "result"
    step: str
    property: str = ""
    handed_at: str = ""
    """The place where it is handed into a sub-workflow, "" for every other reference. The
    sub-workflow runs once per artifact, and in each of its iterations all references of this place
    mean the same one."""


class DTypeValue(Frozen):
    """A torch dtype, named in a key that ends in `dtype`."""

    type: Literal["dtype"] = "dtype"
    dtype: DType


class ListValue(Frozen):
    """A list that contains more than plain JSON."""

    type: Literal["list"] = "list"
    items: tuple[Value, ...]


class ObjectValue(Frozen):
    """A mapping that contains more than plain JSON."""

    type: Literal["object"] = "object"
    entries: dict[str, Value]


class BuiltValue(Frozen):
    """An object of one of diffusers' data classes, built again for every call."""

    type: Literal["built"] = "built"
    class_name: str
    """Its name in DATA_CLASSES."""
    media: Value | None = None
    """The file or result from which it is made, if its class takes one."""
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
    """Yields these values and those inside them, in order, without containers."""
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
    """Returns the results that these values refer to, in order."""
    return (value for value in leaves_in(values) if isinstance(value, ResultValue))
