"""Writes the tables of settings in docs/operating.md: `python -m tests.settings_table`.

A row is a field of `app/settings.py`, its docstring, its flag of `serve` and its default.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ByteSize

from app import settings
from app.settings import MIB, MODELS, PROJECT, WORKFLOWS, Settings, variables
from app.shell.command_line import parser

PAGE = PROJECT / "docs" / "operating.md"
BEGIN, END = "<!-- begin: python -m tests.settings_table -->\n", "<!-- end -->\n"


def tables() -> str:
    """Returns one table for each group of settings."""
    flags, told = _flags(), _docstrings()
    found: dict[str, list[str]] = {}
    seen = set()
    for path, variable in variables():
        if variable in seen:
            # The page and the media cache have a switch of the same name.
            continue
        seen.add(variable)
        group, default = _at(path)
        heading = told[group, ""]
        rows = found.setdefault(
            heading, [f"| {heading} | | flag | default |", "| --- | --- | --- | --- |"]
        )
        flag = ", ".join(f"`{each}`" for each in flags.get(path[-1], ()))
        cells = (f"`{variable}`", told[group, path[-1]], flag, _shown(default))
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n\n".join("\n".join(rows) for rows in found.values()) + "\n"


def page() -> str:
    """Returns the page with the tables of this version."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _at(path: tuple[str, ...]) -> tuple[str, Any]:
    """Returns the name of the class whose field this is, and the field's default."""
    holder: Any = Settings()
    for name in path[:-1]:
        holder = getattr(holder, name)
    return type(holder).__name__, getattr(holder, path[-1])


def _docstrings() -> dict[tuple[str, str], str]:
    """Returns the docstrings of all settings, by class and field, and of the classes themselves."""
    found = {}
    for node in ast.parse(inspect.getsource(settings)).body:
        if not (isinstance(node, ast.ClassDef) and issubclass(_class(node.name), BaseModel)):
            continue
        found[node.name, ""] = ast.get_docstring(node) or ""
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name)
                found[node.name, field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def _class(name: str) -> type:
    found = getattr(settings, name)
    assert isinstance(found, type)
    return found


def _flags() -> dict[str, tuple[str, ...]]:
    """Returns the flags of `serve`, by the setting's name."""
    commands = next(_actions(parser(), argparse._SubParsersAction))
    serve: argparse.ArgumentParser = commands.choices["serve"]
    return {action.dest: tuple(action.option_strings) for action in serve._actions}


def _actions(parser: argparse.ArgumentParser, kind: type) -> Iterator[Any]:
    return (action for action in parser._actions if isinstance(action, kind))


def _shown(default: Any) -> str:
    match default:
        case None:
            return "unset"
        case () | "":
            return "none"
        case bool():
            return "yes" if default else "no"
        case ByteSize():
            return f"{default // MIB} MiB" if default % MIB == 0 else _decimal(default)
        case float():
            return f"{default:g}"
        case Path():
            return f"`{default.relative_to(PROJECT)}/`"
        case tuple():
            added = [each for each in default if each not in (*WORKFLOWS, *MODELS)]
            return ", ".join(map(str, added)) or "none"
        case _:
            return str(default)


def _decimal(count: int) -> str:
    return f"{count / 1e9:g} GB" if count >= 1e9 else f"{count / 1e6:g} MB"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
