"""Reads a model's index of its components.

`model_index.json` of an ordinary pipeline names the class of each component, which is in a folder
of its name. `modular_model_index.json` names the place of each, which may be another repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from app.dialect.files import read_object

INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
INDEXES = (INDEX, MODULAR_INDEX)
OWN_BLOCKS = "modular_config.json"
"""Names the code of a repository's own blocks."""


class IndexedPart(NamedTuple):
    """One component in the index."""

    library: str
    class_name: str
    """Both empty where the index names no class."""
    subfolder: str
    model: str | None = None
    """The repository of its files; None for the index's own."""
    variant: str | None = None
    revision: str | None = None


class ModelIndex(NamedTuple):
    """One model's index."""

    class_name: str
    """The pipeline's, unqualified; an ordinary pipeline's if there is no other."""
    module: str
    """The module of the repository's own code that defines it; empty for diffusers' classes."""
    is_modular: bool
    parts: dict[str, IndexedPart]
    empty: frozenset[str]
    """Components set to null."""
    settings: dict[str, Any]
    """All other entries: values of the pipeline's configuration."""

    @property
    def blocks_class(self) -> str:
        """The class of a modular pipeline's blocks; empty for its pipeline's default."""
        return str(self.settings.get("_blocks_class_name") or "")


def read_index(folder: Path, *, modular: bool = False) -> ModelIndex:
    """Returns the index of the model in this folder; `modular` prefers a modular pipeline's.

    Raises OSError where there is none, ValueError where it is invalid.
    """
    is_modular = modular and (folder / MODULAR_INDEX).is_file()
    tree = read_object(folder / (MODULAR_INDEX if is_modular else INDEX))
    read = _modular_part if is_modular else _part
    parts = {
        name: part
        for name, entry in tree.items()
        if not name.startswith("_") and (part := read(name, entry)) is not None
    }
    named = tree.get("_class_name", "")
    module, class_name = named if isinstance(named, list) and len(named) == 2 else ("", named)
    return ModelIndex(
        str(class_name),
        str(module),
        is_modular,
        parts,
        frozenset(name for name, entry in tree.items() if entry == [None, None]),
        {name: value for name, value in tree.items() if not is_component(value)},
    )


def is_component(entry: Any) -> TypeGuard[list[Any]]:
    """Returns True for an index entry of a component: library and class, or nulls.

    Other entries are settings of the pipeline, some of them lists of numbers.
    """
    numbers = isinstance(entry, list) and entry and all(isinstance(n, int | float) for n in entry)
    return isinstance(entry, list) and not numbers


def _part(name: str, entry: Any) -> IndexedPart | None:
    if not is_component(entry) or len(entry) != 2 or entry[0] is None:
        return None
    return IndexedPart(str(entry[0]), str(entry[1]), name)


def _modular_part(name: str, entry: Any) -> IndexedPart | None:
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], dict):
        return None
    spec = entry[2]
    hint = spec.get("type_hint")
    # A model saved without the component names its class in the hint alone.
    library, class_name = hint if isinstance(hint, list) and len(hint) == 2 else entry[:2]
    texts = {key: str(spec[key]) for key in ("variant", "revision") if spec.get(key)}
    return IndexedPart(
        str(library or ""),
        str(class_name or ""),
        str(spec.get("subfolder") or ""),
        None if spec.get(PLACE) is None else str(spec[PLACE]),
        **texts,
    )


PLACE = "pretrained_model_name_or_path"


def holds(folder: Path) -> bool:
    """Returns True if a component is in this folder: a copy of a model keeps its index, which names
    the repository it comes from."""
    if not folder.is_dir():
        return False
    return any(path.is_file() and path.name != MODULAR_INDEX for path in folder.iterdir())
