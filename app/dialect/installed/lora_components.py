"""Which components of a pipeline a LoRA may change, read from diffusers' source."""

from __future__ import annotations

import ast
import functools

from app.dialect.installed.signatures import base_names, package_root

NAMED = "_lora_loadable_modules"


@functools.cache
def lora_components(class_name: str) -> tuple[str, ...]:
    """Returns the components that LoRAs of a public pipeline class change; empty where unknown."""
    found = (_by_mixin()[base] for base in base_names(class_name) if base in _by_mixin())
    return next(found, ())


@functools.cache
def _by_mixin() -> dict[str, tuple[str, ...]]:
    file = package_root("diffusers") / "loaders" / "lora_pipeline.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: dict[str, tuple[str, ...]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        inherited = (found[b.id] for b in node.bases if isinstance(b, ast.Name) and b.id in found)
        own = next(inherited, ())
        for inner in node.body:
            match inner:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == NAMED:
                    own = tuple(ast.literal_eval(value))
        if own:
            found[node.name] = own
    return found
