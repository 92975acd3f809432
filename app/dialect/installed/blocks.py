"""Inputs of a modular pipeline's blocks, read from their docstrings; nothing is imported.

diffusers generates these docstrings from the blocks, in one form for all families. They are enough
to refuse a mistake early; the worker asks the blocks themselves, which are exact.
"""

from __future__ import annotations

import ast
import functools
import re

from pydantic import TypeAdapter

from app.dialect.installed.signatures import (
    Kind,
    Parameter,
    cached_by_version,
    package_root,
    public_classes,
    rounds_strength_down,
)
from app.frozen import Frozen

BLOCKS: Kind = "set of blocks"
SECTION = re.compile(r"^ *(Supported workflows|Components|Configs|Inputs|Outputs):$", re.MULTILINE)
ENTRY = re.compile(r"^ *(?P<group>\*\*)?(?P<name>\w+) \(`", re.MULTILINE)
ANNOTATION = re.compile(
    r"^[*\w]+ \(`(?P<type>[^`]*)`(?:, \*optional\*)?(?:, defaults to (?P<default>.*?))?\):"
)
NUMBERS = ("int", "float", "bool")
"""Reliable types; a `str` may be a list of texts, and a `Tensor` of numbers."""
WORKFLOW = re.compile(r"^ *- `(\w+)`: requires (.+)$", re.MULTILINE)
COMPONENT = re.compile(r"(\w+)\s+\(`")
CONFIG = re.compile(r"(\w+)\s+\(default:")


class Blocks(Frozen):
    """The blocks of one modular pipeline."""

    inputs: tuple[Parameter, ...]
    """Arguments a call may name. None is `required`: that depends on the workflow."""
    components: tuple[str, ...]
    """Components they load, whichever of them run."""
    configs: tuple[str, ...]
    workflows: dict[str, tuple[tuple[str, ...], ...]]
    """Required arguments of each workflow, in one or several alternatives."""
    docstring: str
    rounds_strength_down: bool = False
    """True if a low strength of few steps leaves no step at all."""


_BLOCKS: TypeAdapter[Blocks | None] = TypeAdapter(Blocks | None)
_NAMES: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


@functools.cache
def blocks_of(pipeline_class: str, blocks_class: str = "") -> Blocks | None:
    """Returns the blocks of a modular pipeline class of diffusers: its own, or those that are
    named.

    None where they are not diffusers'.
    """
    named = blocks_class if _is_blocks(blocks_class) else _default_blocks().get(pipeline_class, "")
    if not _is_blocks(named):
        return None
    return cached_by_version("diffusers", f"blocks-{named}", _BLOCKS, lambda: _read(named))


def modular_class_of(pipeline_class: str) -> str:
    """Returns the modular pipeline class for models of an ordinary one; empty where that is not one
    class for all of them."""
    return _modular_classes().get(family_of(pipeline_class), "")


def family_of(pipeline_class: str) -> str:
    """Returns the name of this class's family in diffusers' tables of automatic pipelines; empty
    where it has none."""
    return _families().get(pipeline_class, "")


def _is_blocks(name: str) -> bool:
    place = public_classes("diffusers").get(name)
    return place is not None and place.kind == BLOCKS


def _read(name: str) -> Blocks | None:
    file = package_root("diffusers") / _file(name)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    docstring = ast.get_docstring(next(classes))
    found = read_docstring(docstring) if docstring else None
    if found is None:
        return None
    sources = (each.read_text(encoding="utf-8") for each in file.parent.glob("*.py"))
    return found.model_copy(
        update={"rounds_strength_down": any(map(rounds_strength_down, sources))}
    )


def read_docstring(docstring: str) -> Blocks | None:
    """Returns the blocks that this docstring describes; None where it does not list inputs."""
    _, *pairs = SECTION.split(docstring)
    sections = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if "Inputs" not in sections:
        return None
    body = sections["Inputs"]
    starts = [match.start() for match in ENTRY.finditer(body)]
    entries = [
        " ".join(body[start:end].split())
        for start, end in zip(starts, [*starts[1:], len(body)], strict=True)
    ]
    return Blocks(
        inputs=tuple(map(_parameter, entries)),
        components=tuple(COMPONENT.findall(sections.get("Components", ""))),
        configs=tuple(CONFIG.findall(sections.get("Configs", ""))),
        workflows={
            name: tuple(
                tuple(re.findall(r"`(\w+)`", alternative)) for alternative in needs.split(" or ")
            )
            for name, needs in WORKFLOW.findall(sections.get("Supported workflows", ""))
        },
        docstring=docstring,
    )


def _parameter(entry: str) -> Parameter:
    name = entry[: entry.index(" ")].lstrip("*")
    match = ANNOTATION.match(entry)
    annotation = match["type"] if match else ""
    return Parameter(
        name=name,
        required=False,
        annotation=f"{annotation} | None" if annotation in NUMBERS else "",
        default=match["default"] or "" if match else "",
    )


def _file(class_name: str) -> str:
    return public_classes("diffusers")[class_name].file


@functools.cache
def _default_blocks() -> dict[str, str]:
    return cached_by_version("diffusers", "default-blocks", _NAMES, _read_default_blocks)


def _read_default_blocks() -> dict[str, str]:
    """Returns the blocks that each modular pipeline class names."""
    root = package_root("diffusers")
    places = public_classes("diffusers").values()
    files = {place.file for place in places if place.kind == "modular pipeline"}
    found: dict[str, str] = {}
    for file in sorted(files):
        for node in ast.parse((root / file).read_text(encoding="utf-8")).body:
            for line in node.body if isinstance(node, ast.ClassDef) else ():
                match line:
                    case ast.Assign([ast.Name("default_blocks_name")], ast.Constant(str(name))):
                        found[node.name] = name  # type: ignore[attr-defined]
    return found


@functools.cache
def _families() -> dict[str, str]:
    return cached_by_version("diffusers", "families", _NAMES, _read_families)


def _read_families() -> dict[str, str]:
    found: dict[str, str] = {}
    for family, value in _pairs("pipelines/auto_pipeline.py"):
        if isinstance(value, ast.Name):
            # The first table that has the class counts.
            found.setdefault(value.id, family)
    return found


@functools.cache
def _modular_classes() -> dict[str, str]:
    return cached_by_version("diffusers", "modular-classes", _NAMES, _read_modular_classes)


def _read_modular_classes() -> dict[str, str]:
    """Returns the class by family, where one class serves all its models."""
    found: dict[str, str] = {}
    for family, value in _pairs("modular_pipelines/modular_pipeline.py"):
        match value:
            case ast.Call(ast.Name("_create_default_map_fn"), [ast.Constant(str(name))]):
                found[family] = name
    return found


def _pairs(file: str) -> list[tuple[str, ast.expr]]:
    """Returns the `("key", value)` pairs of all tables in this file of diffusers, in order."""
    source = (package_root("diffusers") / file).read_text(encoding="utf-8")
    found: list[tuple[int, str, ast.expr]] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Tuple([ast.Constant(str(key)), value]):
                found.append((node.lineno, key, value))
    return [(key, value) for _, key, value in sorted(found, key=lambda pair: pair[0])]
