"""Schedulers that a document names, and their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from app.dialect.files import read_object
from app.dialect.installed import names
from app.dialect.installed.constructors import scheduler_settings
from app.dialect.plan_sources import ModelSource
from app.dialect.references import Path as Place
from app.dialect.references import place
from app.dialect.sampler_names import SAMPLERS, Settings, sampler, sampler_names
from app.errors import nearest, shortened
from app.models.family_configs import family_scheduler
from app.models.hub import folder_of
from app.models.single_files import safetensors_shapes
from app.packages import Package
from app.planning.values import ValueReader

SCIPY = Package("scipy", "scipy")
BETA_SIGMAS = "use_beta_sigmas"
"""The setting with which any scheduler that has it needs scipy."""


def scheduler_config(model: Path) -> Mapping[str, Any]:
    """Returns the configuration of a model's scheduler; empty where it has none."""
    try:
        return read_object(model / "scheduler" / "scheduler_config.json")
    except (OSError, ValueError):
        return {}


def read_scheduler_class(model: Path) -> str | None:
    """Returns the class of a model's scheduler; None where it is not told."""
    found = scheduler_config(model).get("_class_name")
    return found if isinstance(found, str) else None


def scheduler_class(source: ModelSource | None, named: str | None) -> str | None:
    """Returns the class of a step's scheduler: the one its document names, or its model's; None
    where it is not known."""
    if named is not None or source is None:
        return named
    if source.file and source.folder is not None:
        return _scheduler_of_checkpoint(Path(source.folder) / source.file)
    folder = folder_of(source)
    return read_scheduler_class(folder) if folder is not None else None


def _scheduler_of_checkpoint(file: Path) -> str | None:
    """Returns the class of the scheduler that the family of this file has; None where its tensors
    do not tell."""
    try:
        return family_scheduler(safetensors_shapes(file))
    except (ValueError, OSError):
        # The reason is told where the file is read.
        return None


def check_packages(
    scheduler: str | None,
    settings: Mapping[str, Any],
    at: Place,
    reader: ValueReader,
    named: str = "",
) -> None:
    """Notes missing packages that this scheduler needs with these settings.

    `scheduler` is its class, None where it is not known; `named` is the document's name for it.
    """
    bare = scheduler.rpartition(".")[2] if scheduler else ""
    known = scheduler_settings(bare)
    if not known:
        return
    for package in names.missing_packages(f"diffusers.{bare}"):
        reader.needs(package, f"'{named or bare}'", at)
    if settings.get(BETA_SIGMAS) and BETA_SIGMAS in known:
        reader.needs(SCIPY, f"'{BETA_SIGMAS}' of {bare}", at)


def read_scheduler(
    named: str, own: str | None, at: Place, reader: ValueReader
) -> tuple[str | None, Settings]:
    """Returns the qualified class and the settings of a scheduler, named by its class or as people
    name it; no class where a problem is noted.

    An input may choose a name, but no class. `own` is the class of the model's own scheduler, None
    where it is not known.
    """
    found = sampler(named)
    if found is None:
        if "Scheduler" in named or "." in named:
            return reader.name(names.class_name, named, at, "scheduler"), {}
        hint = nearest(named, sampler_names()) or f"There are {', '.join(SAMPLERS)}."
        reader.note(at, f"There is no scheduler '{shortened(named)}'.", hint)
        return None, {}
    if own is not None and own.startswith("FlowMatch"):
        reader.warnings.append(
            f"{place(at)}: '{named}' is for models that predict noise; this one was trained for"
            f" {own}, and may draw nothing with another."
        )
    return f"diffusers.{found.class_name}", found.settings


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
