"""Class names, call signatures and docstrings of the installed libraries, read from their source.

Nothing is imported: importing diffusers costs seconds and hundreds of megabytes, its source a few
milliseconds. What was read is cached in the user's cache folder, by package version.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from app.frozen import Frozen
from app.outputs import replacing

T = TypeVar("T")
Kind = Literal[
    "pipeline", "modular pipeline", "set of blocks", "model", "scheduler", "tokenizer", "processor"
]

FOLDERS: dict[str, dict[str, Kind]] = {
    "diffusers": {
        "pipelines/**/*.py": "pipeline",
        "modular_pipelines/**/modular_pipeline.py": "modular pipeline",
        "modular_pipelines/**/modular_blocks_*.py": "set of blocks",
        "models/**/*.py": "model",
        "schedulers/*.py": "scheduler",
    },
    "transformers": {
        "models/*/modeling_*.py": "model",
        "models/*/tokenization_*.py": "tokenizer",
        "models/*/image_processing_*.py": "model",
        "models/*/processing_*.py": "processor",
    },
}
NAMES_END: dict[Kind, str] = {"modular pipeline": "ModularPipeline", "processor": "Processor"}
"""Suffix of a kind's class names, for kinds whose files define other classes too."""
CLASS_LINE = re.compile(r"^class (\w+)[(:]", re.MULTILINE)
CLASS_HEAD = re.compile(r"^class (\w+)(?:\(([^)]*)\))?:", re.MULTILINE)
ROOTS: dict[str, Kind] = {
    "DiffusionPipeline": "pipeline", "ModelMixin": "model", "SchedulerMixin": "scheduler",
}  # fmt: skip
"""Base classes that decide the kind of a class in diffusers' folder of pipelines, which has models
and outputs too."""
AUTO_PIPELINE = "AutoPipelineFor"
"""Prefix of the classes that stand for a pipeline without deriving from one."""
DUMMY = re.compile(
    r"^class (\w+)\(metaclass=DummyObject\):\n    _backends = (\[[^\]]*\])", re.MULTILINE
)
SIDES = re.compile(r"[Hh]eight\b.{0,20} (?:have to|must) be divisible by (\d*)")
"""What diffusers' pipelines say of a size they refuse: its multiple, unless they compute that."""
ROUNDING = "Dimensions will be resized accordingly"
"""What those say that round it."""
STRENGTHS = ("denoise_strength", "strength")
"""Names of the argument that says which share of the steps is drawn, the more exact one first."""
WHOLE_STEPS = (
    "int(num_inference_steps * strength)",
    "int(len(self.scheduler.timesteps) * strength)",
)
"""How pipelines compute the steps that a strength leaves, where a fraction of one is none."""
FORMAT = 22
"""Increase when the cached form changes."""


class ClassPlace(Frozen):
    """Where a public class is defined."""

    kind: Kind
    file: str
    """Below the package's folder."""
    needs: tuple[str, ...] = ()
    """Packages it needs beside torch and transformers, by diffusers' names."""


class Parameter(Frozen):
    """One parameter of a call."""

    name: str
    required: bool
    annotation: str
    default: str


class Sides(Frozen):
    """How a pipeline checks the sides of what it draws."""

    multiple_px: int | None
    """None: the model's own; see `calls.side_multiple`."""
    are_rounded: bool
    """False: others are refused."""


class CallSignature(Frozen):
    """The signature of a class's `__call__`."""

    parameters: tuple[Parameter, ...]
    docstring: str
    gives: tuple[str, ...] = ()
    """The fields of the returned object; empty where the source does not tell."""
    sides: Sides | None = None
    """What the pipeline itself checks of width and height."""
    strength: str = ""
    """The argument that says which share of the steps is drawn; "" for none."""
    rounds_strength_down: bool = False
    """True if a low strength of few steps leaves it no step at all."""


_INDEX: TypeAdapter[dict[str, ClassPlace]] = TypeAdapter(dict[str, ClassPlace])
SINGLE_FILE_TABLE = "SINGLE_FILE_LOADABLE_CLASSES"
_SUBFOLDERS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])
_MODULES: TypeAdapter[dict[str, tuple[str, ...]]] = TypeAdapter(dict[str, tuple[str, ...]])
_SIGNATURE: TypeAdapter[CallSignature | None] = TypeAdapter(CallSignature | None)


@functools.cache
def public_classes(package: str) -> dict[str, ClassPlace]:
    """Returns every public class of the package that a document may name, by name."""
    return cached_by_version(package, "classes", _INDEX, lambda: _index(package))


@functools.cache
def attention_processors() -> dict[str, tuple[str, ...]]:
    """Returns diffusers' attention processors by name, with the modules that define one of that
    name."""
    return cached_by_version("diffusers", "processors", _MODULES, _find_processors)


@functools.cache
def call_signature(class_name: str) -> CallSignature | None:
    """Returns the signature of a diffusers class's `__call__`; None where it defines none itself,
    and for modular pipelines, whose arguments are those of their blocks."""
    found = public_classes("diffusers").get(class_name)
    if found is None or found.kind == "modular pipeline":
        return None
    return cached_by_version(
        "diffusers", f"call-{class_name}", _SIGNATURE, lambda: _read_call(class_name)
    )


@functools.cache
def single_file_classes() -> dict[str, str]:
    """Returns diffusers' models that load weights from a single file, with the folder of a model
    that holds their configuration; "" where the library does not tell."""
    return cached_by_version(
        "diffusers", "single-file-folders", _SUBFOLDERS, _read_single_file_classes
    )


def _read_single_file_classes() -> dict[str, str]:
    """Reads the table that the library itself uses."""
    source = package_root("diffusers") / "loaders" / "single_file_model.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == SINGLE_FILE_TABLE:
            assert isinstance(node.value, ast.Dict)
            return {
                str(key.value): _default_subfolder(how)
                for key, how in zip(node.value.keys, node.value.values, strict=True)
                if isinstance(key, ast.Constant)
            }
    return {}


def _default_subfolder(how: ast.expr) -> str:
    match how:
        case ast.Dict(keys, values):
            for key, value in zip(keys, values, strict=True):
                match key, value:
                    case ast.Constant("default_subfolder"), ast.Constant(str(folder)):
                        return folder
    return ""


def cached_by_version(package: str, name: str, form: TypeAdapter[T], read: Callable[[], T]) -> T:
    """Returns the cached value of this name for the package's version; calls `read` for a missing
    one."""
    stored = _cache_folder() / f"{package}-{_version(package)}-{FORMAT}" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        return form.validate_json(stored.read_bytes())
    value = read()
    _store(stored, form.dump_json(value))
    return value


@functools.cache
def _version(package: str) -> str:
    # Reads and parses the package's description.
    return importlib.metadata.version(package)


def _index(package: str) -> dict[str, ClassPlace]:
    root = package_root(package)
    # transformers lists nothing in its __init__; there the folders themselves are the list.
    public = _public_names(root / "__init__.py") if package == "diffusers" else frozenset()
    needs = _needs(root / "utils") if package == "diffusers" else {}
    pipelines = _kinds_of_pipelines(root) if package == "diffusers" else {}
    index: dict[str, ClassPlace] = {}
    for pattern, folders_kind in FOLDERS[package].items():
        for file in sorted(root.glob(pattern)):
            for name in CLASS_LINE.findall(file.read_text(encoding="utf-8")):
                kind = pipelines.get(name) if folders_kind == "pipeline" else folders_kind
                if kind is None or not name.endswith(NAMES_END.get(kind, "")):
                    continue
                if (not public or name in public) and not name.startswith("_"):
                    where = file.relative_to(root).as_posix()
                    index.setdefault(
                        name, ClassPlace(kind=kind, file=where, needs=needs.get(name, ()))
                    )
    return index


def _kinds_of_pipelines(root: Path) -> dict[str, Kind]:
    """Returns the kinds of the classes in diffusers' folder of pipelines, by their bases."""
    bases: dict[str, list[str]] = {}
    for file in sorted(root.glob("pipelines/**/*.py")):
        for name, listed in CLASS_HEAD.findall(file.read_text(encoding="utf-8")):
            bases.setdefault(name, [each.strip().rpartition(".")[2] for each in listed.split(",")])

    def kind_of(name: str, below: tuple[str, ...] = ()) -> Kind | None:
        if name in ROOTS:
            return ROOTS[name]
        if name.startswith(AUTO_PIPELINE):
            return "pipeline"
        inner = (each for each in bases.get(name, ()) if each not in below)
        return next(filter(None, (kind_of(each, (*below, name)) for each in inner)), None)

    kinds = {name: kind_of(name) for name in bases}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _find_processors() -> dict[str, tuple[str, ...]]:
    root = package_root("diffusers")
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(root.glob("models/**/*.py")):
        module = ".".join(("diffusers", *file.relative_to(root).with_suffix("").parts))
        for name in CLASS_LINE.findall(file.read_text(encoding="utf-8")):
            if "AttnProcessor" in name:
                found[name] = (*found.get(name, ()), module)
    return found


def _public_names(init: Path) -> frozenset[str]:
    """Returns every name in a list of the package's lazy import structure."""

    def exported() -> Iterator[str]:
        for node in ast.walk(ast.parse(init.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List):
                for item in node.elts:
                    if isinstance(item, ast.Constant) and isinstance(item.value, str):
                        yield item.value

    return frozenset(exported())


def _needs(utils: Path) -> dict[str, tuple[str, ...]]:
    """Returns the packages each class needs, from the dummies that replace it where one is
    missing."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(utils.glob("dummy_*_objects.py")):
        for name, listed in DUMMY.findall(file.read_text(encoding="utf-8")):
            packages = ast.literal_eval(listed)
            found[name] = tuple(each for each in packages if each not in ("torch", "transformers"))
    return found


@functools.lru_cache(maxsize=1)
def class_source(class_name: str) -> ast.ClassDef | None:
    """Returns the source of a public diffusers class; None for an unknown name."""
    found = public_classes("diffusers").get(class_name)
    if found is None:
        return None
    tree = ast.parse((package_root("diffusers") / found.file).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return classes[class_name]


def base_names(class_name: str) -> set[str]:
    """Returns the direct bases of a public diffusers class; empty for an unknown name."""
    source = class_source(class_name)
    return {base.id for base in source.bases if isinstance(base, ast.Name)} if source else set()


@functools.cache
def is_inner_model(name: str) -> bool:
    """Returns True for the dotted name of a model that diffusers keeps beside its pipelines."""
    *folders, bare = name.split(".")
    if folders[:2] != ["diffusers", "pipelines"] or not all(map(str.isidentifier, folders)):
        return False
    file = package_root("diffusers").joinpath(*folders[1:]).with_suffix(".py")
    if not file.is_file():
        return False
    return any(
        isinstance(node, ast.ClassDef)
        and node.name == bare
        and "ModelMixin" in {base.id for base in node.bases if isinstance(base, ast.Name)}
        for node in ast.parse(file.read_text(encoding="utf-8")).body
    )


def _read_call(class_name: str) -> CallSignature | None:
    source = class_source(class_name)
    if source is None:
        return None
    for node in source.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            read = read_signature(node)
            names = {parameter.name for parameter in read.parameters}
            return read.model_copy(
                update={
                    "sides": _sides_of(source),
                    "strength": next((name for name in STRENGTHS if name in names), ""),
                    "rounds_strength_down": any(map(rounds_strength_down, _with_inner(source))),
                }
            )
    return None


def rounds_strength_down(source: str) -> bool:
    """Returns True if this code leaves no step where the strength leaves a fraction of one."""
    return any(each in source for each in WHOLE_STEPS)


def _with_inner(source: ast.ClassDef) -> Iterator[str]:
    """Yields the code of a pipeline, and that of the pipelines it is combined of."""
    yield ast.unparse(source)
    built = {node.func.id for node in ast.walk(source)
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    for name in sorted(built & public_classes("diffusers").keys()):
        if name.endswith("Pipeline") and (inner := class_source(name)) is not None:
            yield ast.unparse(inner)


def _sides_of(source: ast.ClassDef) -> Sides | None:
    nodes = (node.value for node in ast.walk(source) if isinstance(node, ast.Constant))
    texts = [text for text in nodes if isinstance(text, str)]
    found = next(filter(None, map(SIDES.search, texts)), None)
    if found is None:
        return None
    are_rounded = any(ROUNDING in text for text in texts)
    return Sides(multiple_px=int(found[1]) if found[1] else None, are_rounded=are_rounded)


def _output_fields(node: ast.FunctionDef) -> tuple[str, ...]:
    """Returns the fields of the call's output: `return FluxPipelineOutput(images=image)`."""
    for each in ast.walk(node):
        match each:
            case ast.Return(value=ast.Call(func=ast.Name(id=name), args=[], keywords=fields)) if (
                name.endswith("Output")
            ):
                return tuple(field.arg for field in fields if field.arg)
    return ()


def read_signature(node: ast.FunctionDef) -> CallSignature:
    """Returns the signature of a class's `__call__` with this source."""
    positional = node.args.args[1:]  # without self
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults))
    defaults += node.args.defaults
    pairs = [*zip(positional, defaults, strict=True)]
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return CallSignature(
        parameters=tuple(
            Parameter(
                name=argument.arg,
                required=default is None,
                annotation=ast.unparse(argument.annotation) if argument.annotation else "",
                default=ast.unparse(default) if default is not None else "",
            )
            for argument, default in pairs
        ),
        docstring=ast.get_docstring(node) or "",
        gives=_output_fields(node),
    )


def package_root(package: str) -> Path:
    """Returns the folder in which the package is installed."""
    # Finding the spec of a top-level package does not import it.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; run `make serve` to install it")
    return Path(spec.origin).parent


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusers-workbench"


def _store(file: Path, content: bytes) -> None:
    """Caches the content for the next process; a read-only home only costs that process time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as written:
            written.write(content)
    except OSError:
        return
