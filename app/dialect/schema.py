"""Generates the JSON Schema (draft 2020-12) of the dialect from the typed document.

    python -m app.dialect.schema > docs/workflow.schema.json

An editor that is given it (`"$schema"` in the document) completes keys and marks mistakes. It
describes the document as written: any value may be a `variable:`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

from app.dialect import document
from app.dialect.document import WorkflowDocument
from app.dialect.loader import ACTIONS, is_open
from app.tasks import TASKS

COMPONENTS = (
    "feature_extractor", "image_encoder", "latent_upsampler", "processor",
    "prompt_enhancer", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer",
    "tokenizer_2", "tokenizer_3", "transformer", "transformer_2", "unet", "vae",
)  # fmt: skip
"""Components that an editor offers; any other key with `from_pretrained_arguments` is one too."""
LISTS = ("adapter", "controlnet")
"""Components of which pipelines take several."""
VARIABLE = {"$ref": "#/$defs/Variable"}
PLACES = {
    "Configuration": ("pipeline", "configuration"),
    "LoraBlock": ("loras",),
    "TextualInversionBlock": ("textual_inversions",),
    "IpAdapterBlock": ("ip_adapter",),
    "SchedulerBlock": ("scheduler",),
    "ChainBlock": ("chain",),
    "InputBlock": ("inputs", "x"),
}
"""Places of the blocks that may be closed; the others are open."""
LITERAL = {"InputBlock"}
"""Blocks that are read before variables are replaced."""
Schema = dict[str, Any]


def workflow_schema() -> Schema:
    """Returns the schema of a workflow file."""
    schema = WorkflowDocument.model_json_schema()
    blocks: Schema = schema.pop("$defs")
    blocks["WorkflowDocument"] = schema
    found = {name: _block(name, block) for name, block in sorted(blocks.items())}
    _add_what_validators_check(found)
    top = found.pop("WorkflowDocument")
    top["properties"]["$schema"] = {"type": "string"}
    found["Variable"] = {"type": "string", "pattern": "^variable:"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Diffusers Workbench workflow",
        **top,
        "$defs": found,
    }


def _block(name: str, block: Schema) -> Schema:
    """Returns the schema of one object: open or closed, with variables where they are allowed."""
    if block.get("type") != "object":
        return block
    place = PLACES.get(name, (name,))
    described = _described().get(name, {})
    properties = {}
    for key, value in block["properties"].items():
        plain = _without_titles(value)
        properties[key] = plain if name in LITERAL else _or_variable(plain)
        if key in described:
            properties[key]["description"] = described[key]
    made: Schema = {"type": "object", "properties": properties}
    if "description" in block:
        made["description"] = block["description"]
    if block.get("required"):
        made["required"] = block["required"]
    if not is_open((*place, "unknown")):
        made["additionalProperties"] = False
    return made


def _add_what_validators_check(blocks: dict[str, Schema]) -> None:
    """Adds the rules of the document's validators, which field types do not express."""
    step, task, pipeline = blocks["StepDocument"], blocks["TaskBlock"], blocks["PipelineBlock"]
    some_change = [{"required": [key]} for key in ("configuration", "shift", "from_config_args")]
    blocks["SchedulerBlock"]["anyOf"] = some_change
    step["oneOf"] = [{"required": [action]} for action in ACTIONS]
    task["oneOf"] = [{"required": ["arguments"]}, {"required": ["inputs"]}]
    task["properties"]["command"] = {"anyOf": [{"enum": sorted(TASKS)}, {"type": "string"}]}
    del pipeline["properties"]["component_blocks"], pipeline["properties"]["component_lists"]
    component = {"$ref": "#/$defs/ComponentDocument"}
    several = {"type": "array", "items": component, "minItems": 1}
    pipeline["properties"] |= dict.fromkeys(COMPONENTS, component)
    pipeline["properties"] |= {key: {"anyOf": [component, several]} for key in LISTS}
    pipeline["additionalProperties"] = {
        "if": {"type": "object", "required": ["from_pretrained_arguments"]},
        "then": component,
    }


def _or_variable(value: Schema) -> Schema:
    """Returns the schema with a variable as an alternative to a number, a boolean or an enum, also
    where an object or a list may stand instead.

    A string may be one anyway; for a block an editor could tell nothing.
    """
    options = value.get("anyOf", [value])
    kinds = {option.get("type") for option in options} - {"null"}
    if None in kinds or kinds <= {"object", "array"}:
        return dict(value)
    if any(option.get("type") == "string" and "enum" not in option for option in options):
        return dict(value)
    notes: Schema = {key: value[key] for key in ("default", "description") if key in value}
    plain = [{key: item for key, item in option.items() if key not in notes} for option in options]
    return {"anyOf": [*plain, VARIABLE], **notes}


@cache
def _described() -> dict[str, dict[str, str]]:
    """Returns the docstrings of the document's fields, by class and field."""
    tree = ast.parse(Path(document.__file__).read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for block in tree.body:
        if not isinstance(block, ast.ClassDef):
            continue
        for field, below in itertools.pairwise(block.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                    found.setdefault(block.name, {})[name] = inspect.cleandoc(text)
    return found


def _without_titles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_titles(item) for key, item in value.items()
                if not (key == "title" and isinstance(item, str))}  # fmt: skip
    return [_without_titles(item) for item in value] if isinstance(value, list) else value


def text() -> str:
    """Returns the text of the schema file."""
    return json.dumps(workflow_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
