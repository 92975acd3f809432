"""Classes out of a repository's own code, where whoever started the workbench has allowed it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

from app.errors import LoadError
from app.workflow.fingerprint import identify_file
from app.workflow.models.specs import Selection, local_folder
from app.workflow.plan_sources import ModelSource

PIPELINE = "pipeline"
"""The module that defines a repository's pipeline, where its index names no other."""


def code_folder(code: ModelSource) -> Path:
    """Where the code lies."""
    return local_folder(code, Selection(code=True))


def load_class(folder: Path, module: str, name: str | None, base: type[Any]) -> type[Any]:
    """The class of this name in a module of the folder; without a name the only one of the base's.

    The module is one of a package of its own for every content of the folder: other files are other
    modules, and what the package's name tells apart tells results apart. Raises LoadError.
    """
    try:
        found = importlib.import_module(f"{_package(folder)}.{module}")
    except Exception as error:
        # It is anybody's code: whatever it raises is what is wrong with it.
        raise LoadError(
            f"The code '{module}.py' of '{folder.name}' cannot be run.",
            hint=f"{type(error).__name__}: {error}",
        ) from error
    classes = [
        each
        for each in vars(found).values()
        if isinstance(each, type) and issubclass(each, base) and each.__module__ == found.__name__
    ]
    for each in classes:
        if each.__name__ == name or (name is None and len(classes) == 1):
            return each
    what = f"no class '{name}'" if name else f"{len(classes)} classes, not one,"
    raise LoadError(f"'{module}.py' of '{folder.name}' has {what} of a {base.__name__}.")


def _package(folder: Path) -> str:
    files = sorted(folder.rglob("*.py"))
    identity = "".join(
        f"{file.relative_to(folder)}{identify_file(file).model_dump_json()}" for file in files
    )
    name = f"trusted_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return name
