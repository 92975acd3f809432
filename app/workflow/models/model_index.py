"""What a model says of its parts, in the file that lies beside them.

`model_index.json` of an ordinary pipeline names the class of each component, which lies in a folder
of its name. `modular_model_index.json` says where each lies, which may be in another repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from app.workflow.files import read_object

INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
INDEXES = (INDEX, MODULAR_INDEX)
OWN_BLOCKS = "modular_config.json"
"""In which a repository names the code of blocks of its own."""


class IndexedPart(NamedTuple):
    """One component, as the index has it."""

    library: str
    class_name: str
    """Both empty where the index names no class."""
    subfolder: str
    model: str | None = None
    """The repository it lies in; None: the index's own."""
    variant: str | None = None
    revision: str | None = None


class ModelIndex(NamedTuple):
    """One model's index."""

    class_name: str
    """The pipeline's, unqualified; of an ordinary pipeline where there is no other."""
    module: str
    """The module of the repository's own code that defines it; empty where diffusers does."""
    is_modular: bool
    parts: dict[str, IndexedPart]
    empty: frozenset[str]
    """Components in whose place there is none."""
    settings: dict[str, Any]
    """What is neither: values of the pipeline's configuration."""

    @property
    def blocks_class(self) -> str:
        """The class of a modular pipeline's blocks; empty where it is its pipeline's own."""
        return str(self.settings.get("_blocks_class_name") or "")


NO_INDEX = ModelIndex("", "", False, {}, frozenset(), {})
"""Of a pipeline whose document names no model."""


def read_index(folder: Path, *, modular: bool = False) -> ModelIndex:
    """The index of the model in this folder; `modular` prefers a modular pipeline's.

    Raises OSError where there is none, ValueError where it is no index.
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
    """Whether an entry of a model's index is meant as a component: library and class, or nulls.

    The others are settings of the pipeline, of which some are lists of numbers.
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
    # What was saved without the component names its class in the hint alone.
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
    """Whether a component lies in this folder: a copy of a model keeps its index, which names
    the repository it comes from."""
    if not folder.is_dir():
        return False
    return any(path.is_file() and path.name != MODULAR_INDEX for path in folder.iterdir())
