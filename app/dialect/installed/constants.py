"""Resolves `constant:dotted.NAME`: a value in the source of diffusers or transformers.

The source is only read: nothing is imported or run, so a document cannot trigger anything. Literals
are resolved, and expressions of literals by arithmetic and slicing.
"""

from __future__ import annotations

import ast
import copy
import functools
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from app.dialect.installed.signatures import package_root
from app.dialect.references import Path as Place
from app.dialect.references import parse
from app.errors import nearest, shortened

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
MAX_NAME_LENGTH = 200
PACKAGES = ("diffusers", "transformers")
MAX_IMPORTS = 8
"""Greatest number of imports of a name from one module into the next."""
MAX_LENGTH = 100_000
"""Limit for lists and texts made by arithmetic."""
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class UnknownConstant(ValueError):
    """The constant cannot be resolved; the text is a sentence that begins with that."""


@functools.lru_cache(maxsize=256)
def constant(name: str) -> JsonValue:
    """Returns the value of this constant; a bare name is one of diffusers itself. Raises
    UnknownConstant.

    The result is cached: copy it before changing it.
    """
    if len(name) > MAX_NAME_LENGTH or not NAME.fullmatch(name):
        raise _unknown(name, "that is no name with dots in it.")
    parts = name.split(".") if "." in name else ["diffusers", name]
    if parts[0] not in PACKAGES:
        raise _unknown(name, "only those of diffusers and transformers can be taken.")
    file, rest = _module(parts)
    if not rest:
        raise _unknown(name, "that is a module.")
    module = _Module(file)
    try:
        if len(rest) == 1:
            return module.value(rest[0])
        if len(rest) == 2:
            return module.value_of_class(*rest)
    except _NotTaken as error:
        raise _unknown(name, str(error)) from None
    raise _unknown(name, f"there is no module '{'.'.join(parts[: -len(rest) + 1])}'.")


def _unknown(name: str, why: str) -> UnknownConstant:
    return UnknownConstant(f"There is no constant '{shortened(name)}': {why}")


def _module(parts: list[str]) -> tuple[Path, list[str]]:
    """Returns the file of the module named by the longest part of the name, and the rest of the
    name."""
    folder = package_root(parts[0])
    for index, part in enumerate(parts[1:], start=1):
        if (folder / part / "__init__.py").is_file():
            folder = folder / part
        elif (folder / f"{part}.py").is_file():
            return folder / f"{part}.py", parts[index + 1 :]
        else:
            return folder / "__init__.py", parts[index:]
    return folder / "__init__.py", []


class _NotTaken(ValueError):
    """Why a value cannot be resolved, as the end of a sentence."""


class _Module:
    """The source of one module."""

    def __init__(self, file: Path, imports_left: int = MAX_IMPORTS) -> None:
        self._file = file
        self._imports_left = imports_left
        self._tree = ast.parse(file.read_text(encoding="utf-8"))
        self._open: set[str] = set()
        """Names whose values are being computed."""

    def value(self, name: str) -> JsonValue:
        for node in self._statements():
            match node:
                case ast.Assign(targets=targets, value=value) if _assigns(targets, name):
                    return self._worked_out(name, value)
                case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if (
                    found == name
                ):
                    return self._worked_out(name, value)
                case ast.FunctionDef() | ast.ClassDef() if node.name == name:
                    raise _NotTaken("it can be called, and is no value.")
                case ast.ImportFrom():
                    for alias in node.names:
                        if (alias.asname or alias.name) == name:
                            return self._imported(node, alias.name)
        known = {each for node in self._statements() for each in _names(node)}
        raise _NotTaken(f"its module has none of this name. {nearest(name, known)}".rstrip())

    def value_of_class(self, class_name: str, name: str) -> JsonValue:
        for node in self._statements():
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                for inner in node.body:
                    if isinstance(inner, ast.Assign) and _assigns(inner.targets, name):
                        return self._worked_out(name, inner.value)
        raise _NotTaken("its module has none of this name.")

    def _statements(self) -> list[ast.stmt]:
        """Returns the statements at the top of the module, also those below an `if` and a `try`."""
        found: list[ast.stmt] = []
        level: list[ast.stmt] = list(self._tree.body)
        while level:
            node = level.pop(0)
            found.append(node)
            if isinstance(node, ast.If | ast.Try):
                level += [*node.body, *node.orelse]
        return found

    def _imported(self, node: ast.ImportFrom, name: str) -> JsonValue:
        if not node.level or not self._imports_left:
            raise _NotTaken("it is imported from elsewhere.")
        folder = self._file.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        for part in (node.module or "").split("."):
            folder = folder / part
        for file in (folder.with_suffix(".py"), folder / "__init__.py"):
            if file.is_file() and any(
                file.is_relative_to(package_root(package)) for package in PACKAGES
            ):
                return _Module(file, self._imports_left - 1).value(name)
        raise _NotTaken("it is imported from elsewhere.")

    def _worked_out(self, name: str, node: ast.expr) -> JsonValue:
        if name in self._open:
            raise _NotTaken("its value is worked out only when the module runs.")
        self._open.add(name)
        try:
            value: JsonValue = self._evaluated(node)
            return value
        except (ArithmeticError, TypeError, LookupError):
            raise _NotTaken("its value is worked out only when the module runs.") from None
        finally:
            self._open.discard(name)

    def _evaluated(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=str() | int() | float() | bool() | None as value):
                return value
            case ast.List() | ast.Tuple() | ast.Set():
                return [self._evaluated(item) for item in node.elts]
            case ast.Dict(keys=keys, values=values) if all(_is_text(key) for key in keys):
                return {
                    key.value: self._evaluated(value)  # type: ignore[union-attr]
                    for key, value in zip(keys, values, strict=True)
                }
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._evaluated(operand)
            case ast.BinOp(left=left, op=how, right=right) if type(how) in OPERATORS:
                return self._calculated(OPERATORS[type(how)], left, right)
            case ast.Name(id=name):
                return self.value(name)
            case ast.Subscript(value=whole, slice=ast.Slice(lower=low, upper=high, step=None)):
                bounds = [None if each is None else self._evaluated(each) for each in (low, high)]
                return self._evaluated(whole)[slice(*bounds)]
            case ast.Subscript(value=whole, slice=index):
                return self._evaluated(whole)[self._evaluated(index)]
        raise _NotTaken("its value is worked out only when the module runs.")

    def _calculated(self, how: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr) -> Any:
        one, other = self._evaluated(left), self._evaluated(right)
        sizes = [len(each) if isinstance(each, str | list) else abs(each) for each in (one, other)]
        if how is operator.mul and sizes[0] * sizes[1] > MAX_LENGTH and not _numbers(one, other):
            raise _NotTaken("its value is too long.")
        return how(one, other)


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _assigns(targets: list[ast.expr], name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _names(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def with_constants(
    tree: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[tuple[Place, str], ...]]:
    """Returns the document with its constants replaced, and the places and reasons of the
    failures."""
    wrong: list[tuple[Place, str]] = []

    def walk(value: Any, path: Place) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        reference = parse(value)
        if reference is None or reference.kind != "constant":
            return value
        try:
            return copy.deepcopy(constant(reference.target.strip()))
        except UnknownConstant as error:
            wrong.append((path, str(error)))
            return None

    parts = {key: walk(tree[key], (key,)) for key in ("variables", "steps") if key in tree}
    return {**tree, **parts}, tuple(wrong)
