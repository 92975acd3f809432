"""Schedulers that a document names, and their settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from app.dialect.files import read_object
from app.dialect.installed.constructors import scheduler_settings
from app.dialect.references import Path as Place
from app.errors import nearest
from app.planning.values import ValueReader


def read_scheduler_class(model: Path) -> str | None:
    """Returns the class of a model's scheduler; None where it is not told."""
    try:
        found = read_object(model / "scheduler" / "scheduler_config.json").get("_class_name")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def warn_of_settings(
    scheduler: str | None, settings: Iterable[str], at: Place, reader: ValueReader
) -> None:
    """Warns of settings that the scheduler does not have: diffusers ignores them.

    `scheduler` is its class; None where it is not known.
    """
    bare = scheduler.rpartition(".")[2] if scheduler else ""
    known = scheduler_settings(bare)
    if not known:
        return
    for name in settings:
        if name not in known:
            what = f"{bare} has no setting '{name}'"
            reader.warn_of_idle((*at, name), what, nearest(name, known))
