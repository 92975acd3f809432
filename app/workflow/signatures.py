"""Class names, call signatures and docstrings of the installed libraries, read from their source.

Nothing is imported: diffusers costs seconds and hundreds of megabytes, its source a few
milliseconds. What was read is kept in the user's cache folder, by package version.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

T = TypeVar("T")
Kind = Literal["pipeline", "model", "scheduler", "tokenizer"]

FOLDERS: dict[str, dict[str, Kind]] = {
    "diffusers": {
        "pipelines/**/*.py": "pipeline",
        "models/**/*.py": "model",
        "schedulers/*.py": "scheduler",
    },
    "transformers": {
        "models/*/modeling_*.py": "model",
        "models/*/tokenization_*.py": "tokenizer",
        "models/*/image_processing_*.py": "model",
    },
}
CLASS_LINE = re.compile(r"^class (\w+)[(:]", re.MULTILINE)
FORMAT = 2
"""Raise when the stored form changes."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassPlace(_Frozen):
    """Where a public class is defined."""

    kind: Kind
    file: str
    """Below the package's folder, which is another one in another installation."""


class Parameter(_Frozen):
    """One parameter of a call."""

    name: str
    required: bool
    annotation: str
    default: str


class CallSignature(_Frozen):
    """How an object of a class is called."""

    parameters: tuple[Parameter, ...]
    docstring: str


_INDEX: TypeAdapter[dict[str, ClassPlace]] = TypeAdapter(dict[str, ClassPlace])
_SIGNATURE: TypeAdapter[CallSignature | None] = TypeAdapter(CallSignature | None)


@functools.cache
def public_classes(package: str) -> dict[str, ClassPlace]:
    """Every public class of the package that a document may name, by name."""
    return _remembered(package, "classes", _INDEX, lambda: _index(package))


@functools.cache
def call_signature(class_name: str) -> CallSignature | None:
    """How a diffusers class's `__call__` is called; None where it defines none itself."""
    found = public_classes("diffusers").get(class_name)
    if found is None:
        return None
    return _remembered(
        "diffusers", f"call-{class_name}", _SIGNATURE, lambda: _read_call(found, class_name)
    )


def _remembered(package: str, name: str, form: TypeAdapter[T], read: Callable[[], T]) -> T:
    folder = _cache_folder() / f"{package}-{importlib.metadata.version(package)}-{FORMAT}"
    stored = folder / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        return form.validate_json(stored.read_bytes())
    value = read()
    _store(stored, form.dump_json(value))
    return value


def _index(package: str) -> dict[str, ClassPlace]:
    root = _package_root(package)
    # transformers lists nothing in its __init__; there the folders themselves are the list.
    public = _public_names(root / "__init__.py") if package == "diffusers" else frozenset()
    index: dict[str, ClassPlace] = {}
    for pattern, kind in FOLDERS[package].items():
        for file in sorted(root.glob(pattern)):
            for name in CLASS_LINE.findall(file.read_text(encoding="utf-8")):
                if (not public or name in public) and not name.startswith("_"):
                    index.setdefault(
                        name, ClassPlace(kind=kind, file=file.relative_to(root).as_posix())
                    )
    return index


def _public_names(init: Path) -> frozenset[str]:
    """Every name that stands in a list of the package's lazy import structure."""

    def exported() -> Iterator[str]:
        for node in ast.walk(ast.parse(init.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List):
                for item in node.elts:
                    if isinstance(item, ast.Constant) and isinstance(item.value, str):
                        yield item.value

    return frozenset(exported())


def _read_call(place: ClassPlace, class_name: str) -> CallSignature | None:
    tree = ast.parse((_package_root("diffusers") / place.file).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in classes[class_name].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            return _signature_of(node)
    return None


def _signature_of(node: ast.FunctionDef) -> CallSignature:
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
    )


def _package_root(package: str) -> Path:
    # Finding the spec of a top-level package does not import it.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; run `make serve` to install it")
    return Path(spec.origin).parent


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusers-workbench"


def _store(file: Path, content: bytes) -> None:
    """Keep the content for the next process; a read-only home only costs the next one time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(content)
        Path(temporary.name).replace(file)
    except OSError:
        return
