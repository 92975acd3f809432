"""Which class an Auto class of transformers stands for; its tables are read, not imported."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from app.workflow.installed.signatures import package_root, remembered

_CLASSES: TypeAdapter[dict[str, tuple[str, ...]]] = TypeAdapter(dict[str, tuple[str, ...]])


def model_class(automatic: str, config: Mapping[str, Any]) -> str | None:
    """The class behind an Auto class (`AutoModelForCausalLM`) for a model of this configuration;
    None where transformers has none, which its load says better."""
    classes = _classes_of(automatic).get(str(config.get("model_type")), ())
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    # As transformers chooses where there are several.
    return next((each for each in named if each in classes), classes[0] if classes else None)


@functools.cache
def _classes_of(automatic: str) -> dict[str, tuple[str, ...]]:
    """The classes that an Auto class stands for, by `model_type`."""
    return remembered("transformers", f"auto-{automatic}", _CLASSES, lambda: _read(automatic))


def _read(automatic: str) -> dict[str, tuple[str, ...]]:
    source = package_root("transformers") / "models" / "auto" / "modeling_auto.py"
    mappings: dict[str, str] = {}
    tables: dict[str, list[ast.expr]] = {}
    wanted = ""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign([ast.Name(name)], ast.Call(args=[_, ast.Name(table)])):
                mappings[name] = table
            case ast.Assign([ast.Name(name)], ast.Call(args=[ast.List(pairs)])):
                tables[name] = pairs
            case ast.ClassDef(name=name) if name == automatic:
                for line in node.body:
                    match line:
                        case ast.Assign([ast.Name("_model_mapping")], ast.Name(mapping)):
                            wanted = mapping
    return dict(_pairs(tables.get(mappings.get(wanted, ""), [])))


def _pairs(pairs: list[ast.expr]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for pair in pairs:
        match pair:
            case ast.Tuple([ast.Constant(str(kind)), ast.Constant(str(name))]):
                yield kind, (name,)
            case ast.Tuple([ast.Constant(str(kind)), ast.Tuple(several)]):
                yield (
                    kind,
                    tuple(str(each.value) for each in several if isinstance(each, ast.Constant)),
                )
