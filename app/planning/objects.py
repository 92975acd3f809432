"""Objects of a document: `{"…_type": CLASS, "from_file" | "from_previous_result" |
"from_arguments": …}`.

The class must be one of diffusers' data classes, whose construction has no side effects. Their
fields are read from diffusers' source.
"""

from __future__ import annotations

import ast
import functools
from typing import Any, NamedTuple, Protocol, get_args

from app.dialect.installed.names import unbraced
from app.dialect.installed.signatures import package_root
from app.dialect.plan_values import BuiltValue, ListValue, LiteralValue, Value
from app.dialect.references import Path as Place
from app.dialect.references import parse
from app.errors import Problem, nearest, shortened
from app.media.files import KIND_NAMES, MediaKind
from app.mistakes import shown

OBJECT_KEYS = ("from_file", "from_previous_result", "from_arguments")
PLAIN_TYPES = ("content_type", "offload_type", "media_type")
"""Keys that end in `_type` and hold a text, not a class."""
DATA_CLASSES: dict[str, str] = {
    "LTXVideoCondition": "pipelines.ltx.pipeline_ltx_condition",
    "LTX2VideoCondition": "pipelines.ltx2.pipeline_ltx2_condition",
    "LTX2ReferenceCondition": "pipelines.ltx2.pipeline_ltx2_ic_lora",
    "LTX2HDRReferenceCondition": "pipelines.ltx2.pipeline_ltx2_hdr_lora",
    "PromptEnhancementConfig": "pipelines.ltx2.utils",
    "CosmosActionCondition": "pipelines.cosmos.pipeline_cosmos3_omni",
    "MiniMaxH3ImageReference": "modular_pipelines.minimax_h3.references",
    "MiniMaxH3VideoReference": "modular_pipelines.minimax_h3.references",
    "MiniMaxH3AudioReference": "modular_pipelines.minimax_h3.references",
}
"""The allowed classes, and the diffusers module of each."""


class DataClass(NamedTuple):
    """Fields of an allowed class."""

    fields: tuple[str, ...]
    required: tuple[str, ...]
    kind: MediaKind | None
    """Kind of media for `from_file` and `from_previous_result`; None where the class takes
    neither."""


class Reader(Protocol):
    """The part of `values.ValueReader` that objects need."""

    problems: list[Problem]

    def is_typed(self, path: Place) -> bool: ...
    def note(self, path: Place, message: str, hint: str = "") -> None: ...
    def read(self, value: Any, path: Place, *, handed_down: bool = False) -> Value: ...
    def result(self, target: str, path: Place, *, handed_down: bool) -> Value: ...
    def media(
        self, value: Any, path: Place, kind: MediaKind, *, handed_down: bool = False
    ) -> Value: ...


@functools.cache
def data_class(name: str) -> DataClass:
    """Returns the fields of a class of DATA_CLASSES, read from its source."""
    file = package_root("diffusers") / f"{DATA_CLASSES[name].replace('.', '/')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (body,) = (
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name
    )
    fields = [
        (node.target.id, node.value is None)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    kind = None
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id="kind")], value=ast.Constant(value=found)):
                kind = next((each for each in get_args(MediaKind) if each == found), None)
    return DataClass(
        tuple(name for name, _ in fields), tuple(name for name, needed in fields if needed), kind
    )


def is_built(value: dict[str, Any]) -> bool:
    """Returns True if this describes an object; `from_file` needs a class beside it."""
    if any(key in value for key in OBJECT_KEYS[1:]):
        return True
    return "from_file" in value and bool(_type_keys(value))


def built_value(reader: Reader, value: dict[str, Any], path: Place, *, handed_down: bool) -> Value:
    """Returns the object; notes a problem and returns a None-literal where it is wrong."""
    nothing = LiteralValue(value=None)
    keys = _type_keys(value)
    ways = [key for key in OBJECT_KEYS if key in value]
    if len(keys) != 1 or len(ways) != 1:
        reader.note(path, "An object has one key that ends in '_type' and names its class,"
                    f" and one of {', '.join(OBJECT_KEYS)}.")  # fmt: skip
        return nothing
    (key,), (way,) = keys, ways
    name = _class_name(reader, value[key], (*path, key))
    if name is None:
        return nothing
    known = data_class(name)
    at = (*path, way)
    rest = {each: item for each, item in value.items() if each not in (key, way)}
    media: Value | None = None
    if way == "from_arguments":
        for each in rest:
            reader.note((*path, each), f"'{each}' belongs into from_arguments.")
        if not isinstance(value[way], dict):
            reader.note(at, f"An object with the arguments is needed, not {shown(value[way])}.")
            return nothing
        rest, where = value[way], at
    elif known.kind is None:
        reader.note(at, f"{name} cannot be built from a file or a result.",
                    "Use from_arguments.")  # fmt: skip
        return nothing
    else:
        media, where = _media(reader, way, value[way], at, known.kind, handed_down), path
    arguments: dict[str, Value] = {}
    for each, item in rest.items():
        if each in known.fields:
            arguments[each] = reader.read(item, (*where, each), handed_down=handed_down)
        else:
            hint = nearest(each, known.fields) or f"It has: {', '.join(known.fields)}."
            reader.note((*where, each), f"{name} has no '{each}'.", hint)
    if media is None:
        for each in known.required:
            if each not in rest:
                reader.note(where, f"'{each}' is missing.")
    return BuiltValue(class_name=name, media=media, arguments=arguments)


def _type_keys(value: dict[str, Any]) -> list[str]:
    return [key for key in value if key.endswith("_type") and key not in PLAIN_TYPES]


def _class_name(reader: Reader, named: Any, at: Place) -> str | None:
    if reader.is_typed(at):
        reader.note(at, "An input cannot choose a class.")
        return None
    if not isinstance(named, str) or unbraced(named) is not None:
        reader.note(at, f"The name of a class is needed, not {shown(named)}.")
        return None
    package, _, bare = named.rpartition(".")
    if package.partition(".")[0] in ("", "diffusers") and bare in DATA_CLASSES:
        return bare
    reader.note(
        at,
        f"'{shortened(named)}' is none of the classes that a document may have objects of.",
        nearest(bare, DATA_CLASSES) or f"They are: {', '.join(DATA_CLASSES)}.",
    )
    return None


def _media(
    reader: Reader, way: str, named: Any, at: Place, kind: MediaKind, handed_down: bool
) -> Value:
    if way == "from_previous_result":
        if isinstance(named, str) and not reader.is_typed(at):
            # The dialect writes the bare name of the step here.
            target = named.removeprefix("previous_result:")
            return reader.result(target, at, handed_down=handed_down)
        reader.note(at, f"The name of an earlier step is needed, not {shown(named)}.")
        return LiteralValue(value=None)
    reference = None if reader.is_typed(at) else parse(named)
    if reference is not None:
        reader.note(at, f"A {KIND_NAMES[kind]} file is needed.", "Use from_previous_result.")
        return LiteralValue(value=None)
    noted = len(reader.problems)
    found = reader.media(named, at, kind, handed_down=handed_down)
    if isinstance(found, ListValue | LiteralValue) and len(reader.problems) == noted:
        reader.note(at, f"One {KIND_NAMES[kind]} file is needed, not {shortened(repr(named))}.")
    return found
