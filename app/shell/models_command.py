"""`python -m app models`: lists the models in the folders of their kinds."""

from __future__ import annotations

import json
import sys

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.dialect.model_kinds import KINDS, Kind
from app.models.inventory import ListedModel, list_models
from app.settings import PathSettings
from app.units import size

PIPE_WIDTH = 240
"""A pipe has no width: names must not be cut for the program that reads them."""


def print_models(paths: PathSettings, kind: Kind | None, *, as_json: bool) -> None:
    """Prints the models of this kind, or of all, as a table or as JSON."""
    found = list(list_models(paths, kind))
    if as_json:
        print(json.dumps([model.model_dump(mode="json") for model in found], indent=1))
        return
    if not found:
        folders = ", ".join(f"'{folder}'" for folder in paths.models)
        print(f"Nothing in {folders}. It is looked for in: {'/, '.join(KINDS)}/.", file=sys.stderr)
        return
    table = Table(
        "kind", "name", "model", "dtype", "size", "trigger words", "where",
        box=box.SIMPLE, pad_edge=False,
    )  # fmt: skip
    for column in table.columns:
        column.overflow = "fold"
    for model in found:
        table.add_row(*map(escape, _cells(model)))
    console = Console()
    Console(width=None if console.is_terminal else PIPE_WIDTH).print(table)


def _cells(model: ListedModel) -> tuple[str, ...]:
    return (
        model.kind,
        model.name,
        model.problem or model.family or "unknown",
        model.dtype,
        size(model.size_bytes),
        ", ".join(model.trigger_words),
        model.path,
    )
