"""Components of diffusers' pipeline classes, read from their source.

Nothing is imported: a pipeline's components are the parameters of its constructor.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from app.dialect.installed.blocks import family_of
from app.dialect.installed.signatures import (
    cached_by_version,
    class_source,
    package_root,
    public_classes,
)
from app.frozen import Frozen

AUTOMATIC = {
    "AutoPipelineForText2Image": "AUTO_TEXT2IMAGE_PIPELINES_MAPPING",
    "AutoPipelineForImage2Image": "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    "AutoPipelineForInpainting": "AUTO_INPAINT_PIPELINES_MAPPING",
}
"""Classes that stand for the model family's class for a purpose, and diffusers' tables."""
AUTO_PIPELINES = "pipelines/auto_pipeline.py"


class Constructor(Frozen):
    """Parameters of a pipeline's constructor."""

    parameters: dict[str, bool]
    """By name, in order: True for one with a default."""
    optional: tuple[str, ...] = ()
    """Components that may be None."""
    lists: tuple[str, ...] = ()
    """Parameters that may be lists."""


_CONSTRUCTOR: TypeAdapter[Constructor | None] = TypeAdapter(Constructor | None)
_SETTINGS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])
_TABLES: TypeAdapter[dict[str, dict[str, str]]] = TypeAdapter(dict[str, dict[str, str]])


@functools.cache
def constructor(class_name: str) -> Constructor | None:
    """Returns the constructor of a public pipeline class of diffusers; None for an unknown class.

    Undefined parts are those of the first base that defines them, as in Python.
    """
    found = public_classes("diffusers").get(class_name)
    if found is None or found.kind != "pipeline":
        return None
    return cached_by_version(
        "diffusers", f"constructor-{class_name}", _CONSTRUCTOR, lambda: _read(class_name)
    )


def takes_one(class_name: str, component: str) -> bool:
    """Returns True if a pipeline of this class takes this component, and no list of several."""
    found = constructor(class_name)
    return found is not None and component in found.parameters and component not in found.lists


@functools.cache
def scheduler_settings(class_name: str) -> tuple[str, ...]:
    """Returns the settings of a public scheduler of diffusers; empty for an unknown class."""
    found = public_classes("diffusers").get(class_name)
    if found is None or found.kind != "scheduler":
        return ()
    return cached_by_version(
        "diffusers",
        f"settings-{class_name}",
        _SETTINGS,
        lambda: _read_settings(class_name),
    )


def _read_settings(class_name: str) -> tuple[str, ...]:
    source = class_source(class_name)
    for node in source.body if source is not None else ():
        match node:
            case ast.FunctionDef(name="__init__"):
                return tuple(name for name, _ in _parameters(node.args))
    return ()


def automatic_class(automatic: str, model_class: str) -> str:
    """Returns the pipeline class that an Auto class stands for with a model published for this
    class; empty where its table has none."""
    tables = _tables()
    family = family_of(model_class) or next(
        (each for table in tables.values() for each, name in table.items() if name == model_class),
        "",
    )
    return tables[AUTOMATIC[automatic]].get(family, "")


def _read(class_name: str) -> Constructor:
    parameters: dict[str, bool] | None = None
    lists: tuple[str, ...] = ()
    optional: tuple[str, ...] | None = None
    for node in _with_bases(class_name, "", set()):
        for inner in node.body:
            match inner:
                case ast.FunctionDef(name="__init__") if parameters is None:
                    parameters = dict(_parameters(inner.args))
                    lists = tuple(_lists(inner.args))
                case ast.Assign([ast.Name("_optional_components")], ast.List(listed)) if (
                    optional is None
                ):
                    optional = tuple(
                        str(item.value) for item in listed if isinstance(item, ast.Constant)
                    )
    return Constructor(parameters=parameters or {}, optional=optional or (), lists=lists)


def _lists(arguments: ast.arguments) -> Iterator[str]:
    """Yields the parameters whose annotation names a list."""
    for each in (*arguments.args, *arguments.kwonlyargs):
        named = ast.walk(each.annotation) if each.annotation is not None else ()
        if any(isinstance(node, ast.Name) and node.id in ("list", "List") for node in named):
            yield each.arg


def _with_bases(name: str, file: str, seen: set[str]) -> Iterator[ast.ClassDef]:
    """Yields the class and its bases, each before its own bases: of this file of diffusers, or
    public ones. Classes of other files (mixins) have no constructor."""
    if name in seen:
        return
    seen.add(name)
    found = public_classes("diffusers").get(name)
    if (node := _classes_in(file).get(name) if file else None) is None:
        if found is None or found.kind != "pipeline":
            return
        file = found.file
        node = _classes_in(file)[name]
    yield node
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield from _with_bases(base.id, file, seen)


@functools.lru_cache(maxsize=4)
def _classes_in(file: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse((package_root("diffusers") / file).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _parameters(arguments: ast.arguments) -> Iterator[tuple[str, bool]]:
    """Yields the named parameters without self; variadic ones have no name."""
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    for index, each in enumerate(positional[1:], start=1):
        yield each.arg, index >= required
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield each.arg, default is not None


@functools.cache
def _tables() -> dict[str, dict[str, str]]:
    return cached_by_version("diffusers", "automatic", _TABLES, _read_tables)


def _read_tables() -> dict[str, dict[str, str]]:
    """Returns the class by family, for each of diffusers' tables of automatic pipelines."""
    tables: dict[str, dict[str, str]] = {name: {} for name in AUTOMATIC.values()}
    source = (package_root("diffusers") / AUTO_PIPELINES).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assign([ast.Name(table)], ast.Call(args=[ast.List(pairs)])) if table in tables:
                for pair in pairs:
                    match pair:
                        case ast.Tuple([ast.Constant(str(family)), ast.Name(name)]):
                            tables[table][family] = name
            case ast.Assign(
                [ast.Subscript(ast.Name(table), ast.Constant(str(family)))], ast.Name(name)
            ) if table in tables:
                # For packages that may be missing.
                tables[table][family] = name
    return tables


# --- automatic classes of transformers ------------------------------------------------------------

_CLASSES: TypeAdapter[dict[str, tuple[str, ...]]] = TypeAdapter(dict[str, tuple[str, ...]])


def model_class(automatic: str, config: Mapping[str, Any]) -> str | None:
    """Returns the class behind an Auto class (`AutoModelForCausalLM`) for a model of this
    configuration; None where transformers has none, which its load reports."""
    classes = _classes_of(automatic).get(str(config.get("model_type")), ())
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    # As transformers chooses between several.
    return next((each for each in named if each in classes), classes[0] if classes else None)


@functools.cache
def _classes_of(automatic: str) -> dict[str, tuple[str, ...]]:
    """Returns the classes that an Auto class stands for, by `model_type`."""
    return cached_by_version(
        "transformers", f"auto-{automatic}", _CLASSES, lambda: _read_automatic(automatic)
    )


def _read_automatic(automatic: str) -> dict[str, tuple[str, ...]]:
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
