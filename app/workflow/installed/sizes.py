"""Which widths, heights and numbers of frames a pipeline can draw, as its own checks say.

Read from the source of its class, as its signature is: `if height % (self.vae_scale_factor * 2)`.
What such a divisor stands for comes from the model's configurations where they are here, else from
what the class itself falls back to, which is right for the models it was written for.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from app.workflow.files import read_object
from app.workflow.installed.signatures import class_source, remembered

SIDES = ("width", "height")
Side = Literal["width", "height", "num_frames"]
DEFAULT_DIVISOR = 8
"""How many pixels of a side become one latent in nearly every model."""


class SizeCheck(BaseModel):
    """One check of a pipeline: `side % divisor` has to be `remainder`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Side
    divisor: str
    """A Python expression, of constants and the pipeline's attributes."""
    remainder: int
    refused: bool
    """Whether the call raises; otherwise another size is drawn than was asked for."""


class SizeChecks(BaseModel):
    """The checks of one class, with the attributes that they mention."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: tuple[SizeCheck, ...]
    attributes: dict[str, str]
    """What the constructor sets: `vae_scale_factor` → `2 ** (len(self.vae.config…) - 1) if …`."""


class SizeRule(NamedTuple):
    """What one side has to be for one model."""

    divisor: int
    remainder: int
    refused: bool

    def fits(self, value: int) -> bool:
        """Whether the pipeline draws exactly this."""
        return value % self.divisor == self.remainder % self.divisor

    def nearest(self, value: int) -> int:
        """The size next to this one that is drawn."""
        below = (value - self.remainder) // self.divisor * self.divisor + self.remainder
        above = below + self.divisor
        return below if below > 0 and value - below < above - value else above

    @property
    def in_words(self) -> str:
        """`a multiple of 16`, `a multiple of 4 plus 1`."""
        rest = self.remainder % self.divisor
        return f"a multiple of {self.divisor}" + (f" plus {rest}" if rest else "")


_CHECKS: TypeAdapter[SizeChecks] = TypeAdapter(SizeChecks)
Config = Callable[[str], Mapping[str, Any]]
"""The configuration of a model's component; an empty one where it is not here."""


def size_rules(class_name: str, model: Path | None) -> dict[Side, SizeRule]:
    """What this diffusers pipeline says of each side, with the model in this folder.

    Where it raises in one case and rounds in another, the stricter rule stands.
    """
    found = size_checks(class_name)
    config = functools.cache(functools.partial(_config, model))
    rules: dict[Side, SizeRule] = {}
    for check in found.checks:
        divisor = _value(ast.parse(check.divisor, mode="eval").body, found.attributes, config)
        if not isinstance(divisor, int) or not 1 < divisor <= 1024:
            continue
        rule = SizeRule(divisor, check.remainder, check.refused)
        known = rules.get(check.side)
        if known is None or (rule.divisor, rule.refused) > (known.divisor, known.refused):
            rules[check.side] = rule
    return rules


@functools.cache
def size_checks(class_name: str) -> SizeChecks:
    """The checks in the source of this diffusers class."""
    return remembered("diffusers", f"sizes-{class_name}", _CHECKS, lambda: _read(class_name))


def _read(class_name: str) -> SizeChecks:
    node = class_source(class_name)
    if node is None:
        return SizeChecks(checks=(), attributes={})
    functions = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    checks = [
        check
        for name in ("check_inputs", "__call__")
        if name in functions
        for check in _checks(functions[name])
    ]
    attributes = {}
    if checks and "__init__" in functions:
        defaults = _defaults(functions["__init__"].args)
        for each in ast.walk(functions["__init__"]):
            if isinstance(each, ast.Assign) and (name := _own_attribute(each.targets[0])):
                attributes[name] = defaults.get(ast.unparse(each.value), ast.unparse(each.value))
    return SizeChecks(checks=tuple(dict.fromkeys(checks)), attributes=attributes)


def _defaults(arguments: ast.arguments) -> dict[str, str]:
    """What the constructor's own parameters are where nobody gives them."""
    named = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    return {
        each.arg: ast.unparse(default)
        for each, default in zip(named, arguments.defaults, strict=True)
    }


def _checks(function: ast.FunctionDef) -> Iterator[SizeCheck]:
    local = {
        each.targets[0].id: each.value
        for each in ast.walk(function)
        if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
    }
    for branch in ast.walk(function):
        if not isinstance(branch, ast.If):
            continue
        refused = any(isinstance(each, ast.Raise) for each in branch.body)
        for each in ast.walk(branch.test):
            check = _check(each, local, refused)
            if check is not None:
                yield check


def _check(node: ast.AST, local: Mapping[str, ast.expr], refused: bool) -> SizeCheck | None:
    """`height % 16 != 0`, `num_frames % n != 1`, `(num_frames - 1) % n != 0`; None: another."""
    match node:
        case ast.Compare(
            left=ast.BinOp(left=value, op=ast.Mod(), right=divisor),
            ops=[ast.NotEq()],
            comparators=[ast.Constant(value=int(remainder))],
        ):
            pass
        case _:
            return None
    match value:
        case ast.Name(id="width" | "height" | "num_frames" as side):
            pass
        case ast.BinOp(left=ast.Name(id="num_frames" as side), op=ast.Sub(), right=ast.Constant(1)):
            remainder += 1
        case _:
            return None
    if isinstance(divisor, ast.Name):
        divisor = local.get(divisor.id, divisor)
    return SizeCheck(side=side, divisor=ast.unparse(divisor), remainder=remainder, refused=refused)


def _own_attribute(node: ast.expr) -> str:
    match node:
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return name
    return ""


def _value(node: ast.expr, attributes: Mapping[str, str], config: Config) -> Any:
    """What the expression is for this model; None where that cannot be told without loading it."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in attributes:
            meant = ast.parse(attributes[name], mode="eval").body
            rest = {key: text for key, text in attributes.items() if key != name}
            return _value(meant, rest, config)
        case ast.Attribute(
            value=ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="self"), attr=component), attr="config"
            ),
            attr=key,
        ):
            return config(component).get(key)
        case ast.Attribute(
            value=ast.Attribute(value=ast.Name(id="self"), attr=component), attr=key
        ):
            return config(component).get(key)
        case ast.IfExp():
            value = _value(node.body, attributes, config)
            return _value(node.orelse, attributes, config) if value is None else value
        case ast.BinOp(left=left, right=right):
            parts = _value(left, attributes, config), _value(right, attributes, config)
            return _computed(node.op, *parts)
        case ast.Call(func=ast.Name(id="len" | "sum" | "int" as function), args=[argument]):
            value = _value(argument, attributes, config)
            if isinstance(value, list) and function != "int":
                return len(value) if function == "len" else sum(value)
            return value if isinstance(value, int) and function == "int" else None
    return None


def _computed(operator: ast.operator, left: Any, right: Any) -> int | None:
    if not isinstance(left, int) or not isinstance(right, int):
        return None
    match operator:
        case ast.Mult():
            return left * right
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Pow() if 0 <= right <= 16 and abs(left) <= 64:
            return int(left**right)
    return None


def _config(model: Path | None, component: str) -> Mapping[str, Any]:
    if model is None:
        return {}
    try:
        return read_object(model / component / "config.json")
    except (OSError, ValueError):
        return {}
