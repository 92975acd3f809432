"""Classes from a repository's own code, for repositories allowed at the start."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

from app.dialect.fingerprint import identify_file
from app.dialect.plan_sources import ModelSource
from app.errors import LoadError
from app.models.specs import Selection, local_folder


def code_folder(code: ModelSource) -> Path:
    return local_folder(code, Selection(code=True))


def load_class(folder: Path, module: str, name: str | None, base: type[Any]) -> type[Any]:
    """Returns the class of this name in a module of the folder; without a name the only subclass.

    The module's package is named by the folder's contents, so that changed code gives new modules
    and other result keys. Raises LoadError.
    """
    try:
        found = importlib.import_module(f"{_package(folder)}.{module}")
    except Exception as error:
        # Foreign code may raise any kind.
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
