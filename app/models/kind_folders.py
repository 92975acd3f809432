"""Folders of models by kind, as ComfyUI and A1111 lay them out, and files found there by bare
name."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from app.dialect.files import FORMATS, PICKLE_SUFFIXES, is_plain
from app.dialect.model_kinds import NAMES, Kind
from app.models.hub import snapshot_folder, this_machine
from app.models.layout import layout_folders
from app.models.model_index import INDEXES
from app.settings import PathSettings

OF_A1111 = "stable-diffusion"
"""A models folder with a folder of this name has its embeddings beside it, not in it."""
MARKS = frozenset({*INDEXES, "config.json"})
"""Files that make a folder a model of diffusers."""
MAX_DEPTH = 12
"""Levels of folders below a kind's folder that are searched."""
MAX_NEAR = 3


class KindFolder(NamedTuple):
    """One folder of models of one kind."""

    kind: Kind
    path: Path
    root: Path
    """The folder it was found in; `path` itself for one that is named by itself."""

    @property
    def title(self) -> str:
        """For messages: `models/loras`."""
        return self.path.relative_to(self.root.parent).as_posix()


class Known(NamedTuple):
    """A file of weights, or a folder in diffusers' layout, in a kind's folder."""

    place: KindFolder
    name: str
    """Its path below the kind's folder, with `/`."""
    is_folder: bool

    @property
    def path(self) -> Path:
        return self.place.path / self.name

    @property
    def title(self) -> str:
        """For messages: `models/loras/style/ink.safetensors`."""
        return f"{self.place.title}/{self.name}"

    @property
    def stem(self) -> str:
        """Its name without the suffix of a file of weights."""
        return self.name if self.is_folder else _without_suffix(self.name)

    @property
    def full_name(self) -> str:
        """Its path with the name of the kind's folder."""
        return f"{self.place.path.name}/{self.stem}"

    def is_called(self, name: str) -> bool:
        """Returns True if this is a bare name of it: its last part, or its path below the kind's
        folder, or with that folder's name; each with or without the suffix.

        A pickle's name stands for the safetensors file of that name too.
        """
        told, stem = name, self.stem
        if self.name.endswith(".safetensors") and _suffix(name) in PICKLE_SUFFIXES:
            told = _without_suffix(name)
        if "/" not in name:
            return told in {self.name.rpartition("/")[2], stem.rpartition("/")[2]}
        folder = self.place.path.name
        return told in {self.name, stem, f"{folder}/{self.name}", f"{folder}/{stem}"}


def kind_folders(paths: PathSettings) -> list[KindFolder]:
    """Returns the folders of all kinds: those of the models folders in their order, then those of
    the layout's file. Each folder is there once."""
    found: list[KindFolder] = []
    for root in paths.models:
        here = _below(root)
        found += here
        beside = root.resolve().parent / "embeddings"
        if any(each.path.name.lower() == OF_A1111 for each in here) and beside.is_dir():
            found.append(KindFolder("embeddings", beside, beside))
    if paths.models_layout is not None:
        found += [
            KindFolder(kind, path, path) for kind, path in layout_folders(paths.models_layout)
        ]
    return list({(each.kind, each.path.resolve()): each for each in reversed(found)}.values())[::-1]


def roots(paths: PathSettings) -> list[Path]:
    """Returns the folders, with links resolved, in which a person's input may name a model."""
    named = (*paths.models, *(each.root for each in kind_folders(paths)))
    return list(dict.fromkeys(each.resolve() for each in named))


def _below(root: Path) -> list[KindFolder]:
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    kinds = ((name, NAMES.get(name.lower())) for name in names)
    return [KindFolder(kind, root / name, root) for name, kind in kinds if kind is not None]


def contents(folder: KindFolder) -> Iterator[Known]:
    """Yields what is in a kind's folder and the folders below it, sorted. A folder in diffusers'
    layout counts as one; links to folders are followed unless they lead back."""
    yield from _contents(folder, "", ())


def _contents(folder: KindFolder, below: str, above: tuple[str, ...]) -> Iterator[Known]:
    here = folder.path / below
    real = os.path.realpath(here)
    if real in above or len(above) == MAX_DEPTH:
        return
    try:
        with os.scandir(here) as entries:
            listed = sorted((e for e in entries if not e.name.startswith(".")), key=_by_name)
            # A link to nothing is a file that cannot be read.
            kinds = [(e.name, e.is_dir(), e.is_file() or e.is_symlink()) for e in listed]
    except OSError:
        return
    if below and any(is_file and name in MARKS for name, _, is_file in kinds):
        yield Known(folder, below, is_folder=True)
        return
    for name, is_dir, is_file in kinds:
        path = f"{below}/{name}" if below else name
        if is_dir:
            yield from _contents(folder, path, (*above, real))
        elif is_file and _suffix(name) in FORMATS:
            yield Known(folder, path, is_folder=False)


def _by_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def bare_names(kind: Kind, paths: PathSettings) -> tuple[str, ...]:
    """Returns a name for each model of this kind, in alphabetical order: its path below the kind's
    folder without the suffix, and with that folder's name where another one has the same."""
    known = [
        each for folder in kind_folders(paths) if folder.kind == kind for each in contents(folder)
    ]
    counted = Counter(each.stem for each in known)
    names = (each.stem if counted[each.stem] == 1 else each.full_name for each in known)
    return tuple(sorted(set(names), key=str.lower))


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if _suffix(name) in FORMATS else name


def file_kinds(class_name: str) -> tuple[Kind, ...]:
    """Returns the kinds of files that may hold a component of this class, those of its own
    first."""
    library, _, bare_class = class_name.rpartition(".")
    if "ControlNet" in bare_class or "T2IAdapter" in bare_class:
        return ("controlnet",)
    if library == "transformers":
        return ("text_encoders", "checkpoints")
    if bare_class.startswith(("Autoencoder", "AsymmetricAutoencoder", "VQModel")):
        return ("vae", "checkpoints")
    return ("diffusion_models", "checkpoints")


# --- bare names ----------------------------------------------------------------------------------


class NotOne(Exception):
    """A bare name stands for none or for several; its text is a message, with a hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Nothing(NotOne):
    """Nothing has this bare name."""


def is_bare(name: str) -> bool:
    """Returns True if the name may be a bare one: neither absolute nor relative to the document,
    without `..`."""
    return is_plain(name.replace("\\", "/"))


def find_known(
    name: str, kinds: Iterable[Kind], paths: PathSettings, *, folders: bool = False
) -> Known | None:
    """Returns the file, or with `folders` the folder, of this bare name; None where these kinds
    have no folders. The first kind that has one of this name counts.

    Raises NotOne where there is none, or where several have it.
    """
    if not is_bare(name):
        return None
    told = name.replace("\\", "/")
    there = [place for place in kind_folders(paths) if place.kind in set(kinds)]
    known = [each for place in there for each in contents(place) if each.is_folder is folders]
    for kind in kinds:
        if found := _called(told, [each for each in known if each.place.kind == kind]):
            if len(found) > 1:
                raise _several(told, found)
            return found[0]
    if not there:
        return None
    raise _none(told, folders, there, known)


def known_instead_of_hub(
    name: str, kinds: Iterable[Kind], paths: PathSettings, *, folders: bool = False
) -> Known | None:
    """Returns the file or folder that is meant by a name of the form `owner/name`, or by one of a
    file of such a repository: one of exactly this path in a kind's folder, unless the hub's cache
    has a repository of this name.

    Raises NotOne where several have it.
    """
    first = name.partition("/")[0]
    may_be = (each.path for each in kind_folders(paths))
    if not any(path.name == first or (path / first).is_dir() for path in may_be):
        return None
    if _is_cached("/".join(name.split("/")[:2])):
        return None
    try:
        return find_known(name, kinds, paths, folders=folders)
    except Nothing:
        return None


def _is_cached(name: str) -> bool:
    folder = snapshot_folder(this_machine(), name, None)
    return folder is not None and folder.is_dir()


def _called(name: str, known: list[Known]) -> list[Known]:
    """Returns those of this name, each file once: a pickle beside a safetensors file stands for
    it, and one that is reached by several links is one."""
    found = {each.path.resolve(): each for each in known if each.is_called(name)}
    safe = {path.with_suffix("") for path in found if path.suffix.lower() not in PICKLE_SUFFIXES}
    return [
        each
        for path, each in found.items()
        if path.suffix.lower() not in PICKLE_SUFFIXES or path.with_suffix("") not in safe
    ]


def _several(name: str, found: list[Known]) -> NotOne:
    told = titles(found)
    most = f" and {len(found) - 2} more" if len(found) > 2 else ""
    return NotOne(
        f"'{name}' is the name of {len(found)}: '{told[0]}' and '{told[1]}'{most}.",
        _how_to_choose(name, found),
    )


def _how_to_choose(name: str, found: list[Known]) -> str:
    """Returns a hint with names that are each of one file only, if there are such names."""
    for names in (
        [each.stem for each in found],
        [each.name for each in found],
        [each.full_name for each in found],
    ):
        if all(len(_called(each, found)) == 1 for each in names):
            return f"Write '{names[0]}' or '{names[1]}'."
    return "Write the path of the one that is meant."


def _none(name: str, folders: bool, there: list[KindFolder], known: list[Known]) -> Nothing:
    looked = ", ".join(f"'{each}'" for each in titles(there))
    return Nothing(
        f"There is no {'model folder' if folders else 'file'} '{name}' in {looked}.",
        near_names(name, known),
    )


def near_names(name: str, known: Iterable[Known]) -> str:
    """Returns a hint with the known names closest to this one, whatever their case."""
    stems = (each.stem if "/" in name else each.stem.rpartition("/")[2] for each in known)
    names = {stem.lower(): stem for stem in stems}
    told = _without_suffix(name).lower()
    close = difflib.get_close_matches(told, names, n=MAX_NEAR, cutoff=0.6)
    offered = [f"'{names[each]}'" for each in close]
    return f"Did you mean {' or '.join(offered)}?" if offered else ""


def titles(found: Sequence[KindFolder | Known]) -> list[str]:
    """Returns how messages name these: from the models folder on, or in full to tell them
    apart."""
    told = [each.title for each in found]
    return told if len(set(told)) == len(told) else [str(each.path) for each in found]
