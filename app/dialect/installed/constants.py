"""Resolves `constant:dotted.NAME`: a value in the source of diffusers or transformers.

The source is only read: nothing is imported or run, so a document cannot trigger anything. Literals
are resolved, and expressions of literals by arithmetic and slicing.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    try:
        return SourceModule(file).value_at(rest)
    except _NoSuchName as error:
        if error.name == rest[0] and len(rest) > 2:
            missing = ".".join(parts[: len(parts) - len(rest) + 1])
            raise _unknown(name, f"there is no module '{missing}'.") from None
        raise _unknown(name, str(error)) from None
    except _NotTaken as error:
        raise _unknown(name, str(error)) from None


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


class _NoSuchName(_NotTaken):
    def __init__(self, name: str, whose: str, known: Iterable[str]) -> None:
        super().__init__(f"{whose} has none of this name. {nearest(name, known)}".rstrip())
        self.name = name


RUNS = "its value is worked out only when the module runs."
CALLABLE = "it can be called, and is no value."
EMPTY = {"list": "[]", "dict": "{}", "tuple": "()", "set": "()", "str": "''"}
"""What the default factories of dataclasses make."""
DATACLASS = {"dataclass", "dataclasses.dataclass"}
RUN_ON_CREATION = {"__init__", "__new__", "__post_init__", "__getattribute__"}
Node = ast.expr | ast.ClassDef


class SourceModule:
    """The source of one module."""

    def __init__(self, file: Path, imports_left: int = MAX_IMPORTS) -> None:
        self._file = file
        self._imports_left = imports_left
        self._tree = ast.parse(file.read_text(encoding="utf-8"))
        self._open: set[ast.expr] = set()
        """Expressions whose values are being computed."""

    def value_at(self, names: Sequence[str]) -> JsonValue:
        """Returns the value of an attribute of an attribute … of a name of this module."""
        module, node = self._find(names[0])
        for name in names[1:]:
            module, node = module._attribute(node, name)
        return module._worked_out(node)

    def _find(self, name: str) -> tuple[SourceModule, Node]:
        """Returns what this name stands for, and the module whose names that uses."""
        for node in self._statements():
            match node:
                case ast.Assign(targets=targets, value=value) if _assigns(targets, name):
                    return self, value
                case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if (
                    found == name
                ):
                    return self, value
                case ast.FunctionDef() if node.name == name:
                    raise _NotTaken(CALLABLE)
                case ast.ClassDef() if node.name == name:
                    return self, node
                case ast.ImportFrom():
                    for alias in node.names:
                        if (alias.asname or alias.name) == name:
                            return self._imported(node)._find(alias.name)
        known = {each for node in self._statements() for each in _names(node)}
        raise _NoSuchName(name, "its module", known)

    def _attribute(self, node: Node, name: str) -> tuple[SourceModule, Node]:
        """Returns an attribute of a class, or of an object of a dataclass."""
        match node:
            case ast.ClassDef():
                fields = dict(self._class_attributes(node))
                if (found := fields.get(name)) is not None and found[1] is not None:
                    return found[0], found[1]
                raise _NoSuchName(name, node.name, fields)
            case ast.Name(id=named):
                module, inner = self._find(named)
                return module._attribute(inner, name)
            case ast.Attribute(value=whole, attr=part):
                module, inner = self._attribute(whole, part)
                return module._attribute(inner, name)
            case ast.Call(func=ast.Name(id=class_name)):
                module, made = self._find(class_name)
                if isinstance(made, ast.ClassDef) and module._is_plain_dataclass(made):
                    return self._field(node, module, made, name)
        raise _NotTaken(RUNS)

    def _field(
        self, call: ast.Call, home: SourceModule, made: ast.ClassDef, name: str
    ) -> tuple[SourceModule, Node]:
        """Returns a field of the dataclass's object that this call makes."""
        fields = dict(home._class_attributes(made))
        if name not in fields:
            raise _NoSuchName(name, made.name, fields)
        given = dict(zip(fields, call.args, strict=False))
        given |= {each.arg: each.value for each in call.keywords if each.arg is not None}
        if name in given:
            return self, given[name]
        module, default = fields[name]
        match default:
            case ast.Call(func=ast.Name(id="field"), keywords=keywords):
                for each in keywords:
                    match each:
                        case ast.keyword(arg="default", value=value):
                            return module, value
                        case ast.keyword(arg="default_factory", value=ast.Lambda(body=body)):
                            return module, body
                        case ast.keyword(arg="default_factory", value=ast.Name(id=factory)) if (
                            factory in EMPTY
                        ):
                            return module, ast.parse(EMPTY[factory], mode="eval").body
            case ast.expr():
                return module, default
        raise _NotTaken(RUNS)

    def _class_attributes(
        self, node: ast.ClassDef
    ) -> Iterator[tuple[str, tuple[SourceModule, ast.expr | None]]]:
        """Yields the attributes in the bodies of the class and its bases, the bases' first; None
        for one without a value."""
        for module, each in self._lineage(node):
            for line in each.body:
                match line:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value):
                        yield name, (module, value)
                    case ast.AnnAssign(target=ast.Name(id=name), value=default):
                        yield name, (module, default)

    def _lineage(self, node: ast.ClassDef) -> Iterator[tuple[SourceModule, ast.ClassDef]]:
        """Yields the class after its bases, without those of other packages."""
        for base in node.bases:
            if isinstance(base, ast.Name):
                with contextlib.suppress(_NotTaken):
                    module, found = self._find(base.id)
                    if isinstance(found, ast.ClassDef) and found is not node:
                        yield from module._lineage(found)
        yield self, node

    def _is_plain_dataclass(self, node: ast.ClassDef) -> bool:
        """Returns True for a dataclass whose objects hold what their fields are given."""
        decorators = {ast.unparse(each).partition("(")[0] for each in node.decorator_list}
        classes = [each for _, each in self._lineage(node)]
        functions = {
            line.name for each in classes for line in each.body if isinstance(line, ast.FunctionDef)
        }
        return bool(decorators & DATACLASS) and not functions & RUN_ON_CREATION

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

    def _imported(self, node: ast.ImportFrom) -> SourceModule:
        """Returns the module that this line imports from."""
        if node.level and self._imports_left:
            folder = self._file.parent
            for _ in range(node.level - 1):
                folder = folder.parent
            for part in (node.module or "").split("."):
                folder = folder / part
            for file in (folder.with_suffix(".py"), folder / "__init__.py"):
                if file.is_file() and any(
                    file.is_relative_to(package_root(package)) for package in PACKAGES
                ):
                    return SourceModule(file, self._imports_left - 1)
        raise _NotTaken("it is imported from elsewhere.")

    def _worked_out(self, node: Node) -> JsonValue:
        if isinstance(node, ast.ClassDef):
            raise _NotTaken(CALLABLE)
        if node in self._open:
            raise _NotTaken(RUNS)
        self._open.add(node)
        try:
            value: JsonValue = self._evaluated(node)
            return value
        except (ArithmeticError, TypeError, LookupError):
            raise _NotTaken(RUNS) from None
        finally:
            self._open.discard(node)

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
                return self.value_at([name])
            case ast.Attribute(value=whole, attr=name):
                module, found = self._attribute(whole, name)
                return module._worked_out(found)
            case ast.Subscript(value=whole, slice=ast.Slice(lower=low, upper=high, step=None)):
                bounds = [None if each is None else self._evaluated(each) for each in (low, high)]
                return self._evaluated(whole)[slice(*bounds)]
            case ast.Subscript(value=whole, slice=index):
                return self._evaluated(whole)[self._evaluated(index)]
        raise _NotTaken(RUNS)

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
