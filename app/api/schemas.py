"""JSON Schemas (2020-12) of workflows' inputs, made of the same specs as the page's form."""

from __future__ import annotations

from typing import Any

from app.catalog.catalog import CatalogEntry
from app.dialect.document import MAX_SEED
from app.dialect.inputs import MAX_TEXT_LENGTH, InputSpec

Schema = dict[str, Any]


def inputs_schema(entry: CatalogEntry) -> Schema:
    """Returns the schema of the workflow's inputs, by their names."""
    needed = [
        spec.name for spec in entry.inputs if spec.required and spec.default in (None, "")
    ]  # fmt: skip
    return {
        "type": "object",
        "properties": {spec.name: input_schema(spec) for spec in entry.inputs},
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
    }


def input_schema(spec: InputSpec) -> Schema:
    """Returns the schema of one input. Of a list or an object only that it is one is known."""
    schema: Schema = {"title": spec.label, **_type_of(spec)}
    told = f"{spec.help} {schema.get('description', '')}".strip()
    if told:
        schema["description"] = told
    if spec.media is None:
        # A file's default is a name of this machine.
        schema["default"] = spec.default
    if spec.examples:
        schema["examples"] = [*spec.examples]
    if spec.default is None and not spec.required and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    return schema


def _type_of(spec: InputSpec) -> Schema:
    if spec.kind == "model":
        return {"type": "string", "examples": [*spec.choices]}
    if spec.choices:
        none = [None] if spec.default is None and not spec.required else []
        return {"enum": [*spec.choices, *none]}
    if spec.media is not None:
        file = {
            "type": "string",
            "format": "uri-reference",
            "description": f"A file ({spec.media}): a URL, a data: URL or the address of a result.",
        }
        return {"type": "array", "items": file} if isinstance(spec.default, list) else file
    match spec.kind, spec.default:
        case "seed", _:
            return {"type": "integer", "minimum": 0, "maximum": MAX_SEED}
        case _, bool():
            return {"type": "boolean"}
        case _, int() | float():
            return {"type": "integer" if spec.whole else "number", **_limits(spec)}
        case _, list():
            return {"type": "array"}
        case _, dict():
            return {"type": "object"}
        case "integer", None:
            return {"type": "integer", **_limits(spec)}
        case "number", None:
            return {"type": "number", **_limits(spec)}
        case "checkbox", None:
            return {"type": "boolean"}
        case "text", str():
            return {"type": "string", "maxLength": MAX_TEXT_LENGTH}
    # Without a default any value is taken.
    return {}


def _limits(spec: InputSpec) -> Schema:
    limits = {"minimum": spec.minimum, "maximum": spec.maximum}
    whole = {name: int(each) for name, each in limits.items() if each is not None and spec.whole}
    return {name: each for name, each in limits.items() if each is not None} | whole
