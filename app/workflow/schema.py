"""The dialect as JSON Schema (draft 2020-12), made from the typed document.

    python -m app.workflow.schema > docs/workflow.schema.json

An editor that is told of it (`"$schema"` in the document) completes keys and marks mistakes. It
describes the document as it is written: anything but a key may be a `variable:`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

from app.tasks import TASKS
from app.workflow import document
from app.workflow.document import WorkflowDocument
from app.workflow.loader import ACTIONS, is_open

COMPONENTS = (
    "controlnet", "feature_extractor", "image_encoder", "latent_upsampler", "processor",
    "prompt_enhancer", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer",
    "tokenizer_2", "tokenizer_3", "transformer", "transformer_2", "unet", "vae",
)  # fmt: skip
"""Components that an editor offers; any other key with `from_pretrained_arguments` is one too."""
VARIABLE = {"$ref": "#/$defs/Variable"}
PLACES = {
    "Configuration": ("pipeline", "configuration"),
    "LoraBlock": ("loras",),
    "IpAdapterBlock": ("ip_adapter",),
    "SchedulerBlock": ("scheduler",),
    "ChainBlock": ("chain",),
    "InputBlock": ("inputs", "x"),
}
"""Where the blocks stand that may be closed; the others are open."""
LITERAL = {"InputBlock"}
"""Blocks that are read before variables are replaced."""
Schema = dict[str, Any]


def workflow_schema() -> Schema:
    """The schema of a workflow's file."""
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
    """One object of the document: open or closed, and with variables where they may stand."""
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
    """What the document's own validators say beyond the types of its fields."""
    step, task, pipeline = blocks["StepDocument"], blocks["TaskBlock"], blocks["PipelineBlock"]
    some_change = [{"required": [key]} for key in ("configuration", "shift", "from_config_args")]
    blocks["SchedulerBlock"]["anyOf"] = some_change
    step["oneOf"] = [{"required": [action]} for action in ACTIONS]
    task["oneOf"] = [{"required": ["arguments"]}, {"required": ["inputs"]}]
    task["properties"]["command"] = {"anyOf": [{"enum": sorted(TASKS)}, {"type": "string"}]}
    del pipeline["properties"]["component_blocks"]
    component = {"$ref": "#/$defs/ComponentDocument"}
    pipeline["properties"] |= dict.fromkeys(COMPONENTS, component)
    pipeline["additionalProperties"] = {
        "if": {"type": "object", "required": ["from_pretrained_arguments"]},
        "then": component,
    }


def _or_variable(value: Schema) -> Schema:
    """A number, a truth value or one of some words may also be a variable that holds it.

    A text may be one anyhow; of a block that is one an editor could say nothing.
    """
    options = value.get("anyOf", [value])
    kinds = {option.get("type") for option in options} - {"null"}
    if not kinds <= {"integer", "number", "boolean", "string"}:
        return dict(value)
    if any(option.get("type") == "string" and "enum" not in option for option in options):
        return dict(value)
    notes: Schema = {key: value[key] for key in ("default", "description") if key in value}
    plain = [{key: item for key, item in option.items() if key not in notes} for option in options]
    return {"anyOf": [*plain, VARIABLE], **notes}


@cache
def _described() -> dict[str, dict[str, str]]:
    """What stands below the fields of the document's classes, by class and field."""
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
    """The schema as its file has it."""
    return json.dumps(workflow_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
