"""Component specs: what a step loads, resolved, for all who need to know.

`resolve.component_specs` makes them, without torch. A spec has everything that decides what is
loaded; its key is made of all of that, so a new field makes new keys unless it is named below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from app.dialect.files import safe_name
from app.dialect.fingerprint import FileIdentity, of_variant
from app.dialect.plan_settings import ComponentChanges, DType
from app.dialect.plan_sources import ModelSource
from app.dialect.quantisation import Quantisation, QuantiserKind
from app.errors import LoadError, WorkbenchError
from app.models.hub import held, is_text, this_machine
from app.models.model_index import INDEX, INDEXES, OWN_BLOCKS

CODE = ".py"


class Unknown(WorkbenchError):
    """It cannot be determined here what a step loads; the message gives the reason."""


class NotHere(LoadError):
    """Files of a model are not on this machine."""

    def __init__(self, source: ModelSource, names: tuple[str, ...], missing: tuple[str, ...]):
        what = f"'{missing[0]}' of '{source.model}'" if missing else f"'{source.model}'"
        super().__init__(
            f"{what} is not on this machine any more.", hint="Run it again: it is then fetched."
        )
        self.source = source
        self.names = names
        """All wanted files of the model."""


class Selection(NamedTuple):
    """The wanted files of a model; all of its text files (configurations, vocabularies) where none
    of the fields is set."""

    whole: bool = False
    """True for a whole pipeline, whose index names the other files."""
    folders: tuple[str, ...] = ()
    """Components that are read; "" is the repository's own folder."""
    variant: str | None = None
    """Variant of their weights."""
    files: tuple[str, ...] = ()
    """Single files; for one that may hold code the safetensors file of its name beside it."""
    adapters: tuple[str, ...] = ()
    """Folders all of whose safetensors files are wanted."""
    code: bool = False
    """True if the repository's own modules are wanted, with its text files."""

    def of(self, names: Sequence[str]) -> list[str]:
        """Returns the wanted ones of a repository's files, and a single file or an index that is
        not among them."""
        return list(dict.fromkeys([*self._texts(names), *self.heavy(names)]))

    def heavy(self, names: Sequence[str]) -> list[str]:
        """Returns what `of` does, without text files."""
        chosen = [*weights_of(self.folders, self.variant, names)]
        for file in self.files:
            chosen += [safe_name(file, names, allow_pickles=True) or file]
        for folder in self.adapters:
            chosen += _in_folder(folder, names)
        if self.code:
            chosen += [name for name in names if name.endswith(CODE)]
        return list(dict.fromkeys(chosen))

    def _texts(self, names: Sequence[str]) -> Iterator[str]:
        if self.whole:
            indexes = [name for name in (*INDEXES, OWN_BLOCKS) if name in names]
            yield from indexes or [INDEX]
        folders = ("",) if self.code or self == Selection() else self.folders
        for folder in folders:
            prefix = f"{folder}/" if folder else ""
            yield from (name for name in names if name.startswith(prefix) and is_text(name))


TEXTS = Selection()
"""A model's text files alone."""

Find = Callable[[ModelSource, Selection], Path]
"""Returns the folder of a model with the wanted files: looked up, requested from the hub, or
downloaded. Raises Unknown or LoadError with a sentence."""


def local_folder(source: ModelSource, wanted: Selection) -> Path:
    """Returns the folder of a local model with the wanted files; raises NotHere."""
    if source.folder is not None:
        return Path(source.folder)
    found = held(this_machine(), source.model, source.revision, wanted.of)
    if found.folder is None or found.missing:
        raise NotHere(source, found.wanted, found.missing)
    return found.folder


def known_folder(source: ModelSource, wanted: Selection) -> Path:
    """Returns `local_folder` for callers that load nothing; raises Unknown."""
    try:
        return local_folder(source, wanted)
    except NotHere:
        raise Unknown(
            f"memory needs unknown until '{source.short_name}' has been downloaded."
        ) from None


def weights_of(folders: Iterable[str], variant: str | None, files: Sequence[str]) -> Iterator[str]:
    """Yields the weights that a load from these folders reads; "" is the repository's own."""
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        names = (name.removeprefix(prefix) for name in _in_folder(folder, files))
        yield from (prefix + name for name in of_variant(names, variant))


def _in_folder(folder: str, files: Sequence[str]) -> list[str]:
    """Returns the safetensors files directly in this folder."""
    prefix = f"{folder}/" if folder else ""
    return [
        name
        for name in files
        if name.startswith(prefix)
        and name.endswith(".safetensors")
        and "/" not in name.removeprefix(prefix)
    ]


NOT_DECISIVE = frozenset({"name", "source", "folder", "weight_bytes", "shared_by"})
"""Fields of a spec with no effect on what is loaded: its name, and the places of its files; the
files themselves are identified."""


@dataclass(frozen=True)
class ComponentSpec:
    """One component of a step: everything that decides what is loaded, and its size."""

    name: str
    class_name: str
    """Qualified: `diffusers.UNet2DConditionModel`."""
    source: ModelSource
    folder: Path
    """Folder of its configuration, and of its weights unless they are in a single file."""
    files: tuple[FileIdentity, ...]
    """The present identities of the files it is loaded from."""
    dtype: DType
    variant: str | None
    weight_bytes: int
    """As it will be held; an estimate where it is quantised while it loads."""
    quantisation: Quantisation | None = None
    quantiser: QuantiserKind | None = None
    """The quantiser of its weights: at load time, or before publication."""
    file: Path | None = None
    """The single file that has its weights."""
    tool_files: Mapping[str, str] = field(default_factory=dict)
    """Files of a model that its own library loads: by the library's names, their paths."""
    code: bool = False
    """True if the model's own code, which the operator trusts, defines the class."""
    changes: ComponentChanges | None = None
    """Changes made when it has been loaded."""
    sdnq_matmul: bool = False
    """True if it uses SDNQ's quantised matrix multiplication."""
    shared_by: str | None = None
    """The earlier step that shares this component."""

    @cached_property
    def key(self) -> str:
        """The key under which it is held: 32 hex digits, equal for equal components."""
        decisive: dict[str, Any] = {
            each.name: getattr(self, each.name)
            for each in fields(ComponentSpec)
            if each.name not in NOT_DECISIVE
        }
        # A class's module in its package, and a file's folder, have no effect.
        decisive["class_name"] = (self.library, self.class_name.rpartition(".")[2])
        decisive["file"] = self.file and self.file.name
        text = json.dumps(to_jsonable_python(decisive), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def library(self) -> str:
        """`diffusers`, `transformers`, or the library that loads it itself."""
        return self.class_name.partition(".")[0]

    @property
    def model(self) -> str:
        """Its name in the document."""
        return self.source.model

    @property
    def title(self) -> str:
        """`unet of shapes (float32)`, `transformer of FLUX.1-dev (bfloat16, nf4)`."""
        how: list[str] = [self.dtype]
        how += [self.quantisation.label] if self.quantisation else []
        how += [self.changes.words] if self.changes else []
        return f"{self.name} of {self.source.short_name} ({', '.join(how)})"


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA, a textual inversion or an IP-adapter of a step."""

    folder: Path
    """From which its library reads it; see `load_lora_weights`, `load_ip_adapter`."""
    file: Path | None
    """Its weights; None for any safetensors file in the folder."""
    files: tuple[FileIdentity, ...]
    """The present identities of its files; the load reports a missing one."""


@dataclass(frozen=True)
class StepSpecs:
    """All components of a step."""

    class_name: str
    """The pipeline's, unqualified; "" for a task."""
    folder: Path
    """The model's, with its index."""
    components: tuple[ComponentSpec, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's constructor: absent components, plain values."""
    loras: tuple[AdapterSpec, ...] = ()
    """In the step's order."""
    textual_inversions: tuple[AdapterSpec, ...] = ()
    """In the step's order."""
    ip_adapters: tuple[AdapterSpec, ...] = ()
    """In the step's order."""
    index: FileIdentity | None = None
    """The model's index as read; None without one."""
    is_final: bool = True
    """False if only code can tell the components, so that the worker may find others: a modular
    pipeline's blocks, a model's own classes, or a file that may hold code."""

    @property
    def identity(self) -> dict[str, Any]:
        """Returns all fields that decide the step's result, by name."""
        decisive = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in PLACES
        }
        decisive["components"] = [(each.name, each.key) for each in self.components]
        decisive["loras"] = [each.files for each in self.loras]
        decisive["textual_inversions"] = [each.files for each in self.textual_inversions]
        decisive["ip_adapters"] = [each.files for each in self.ip_adapters]
        return decisive

    @property
    def adapters(self) -> tuple[AdapterSpec, ...]:
        """Returns all adapters of the step."""
        return (*self.loras, *self.textual_inversions, *self.ip_adapters)

    @property
    def weight_bytes(self) -> int:
        """Sum over all components, each once."""
        return sum({each.key: each.weight_bytes for each in self.components}.values())


PLACES = frozenset({"folder", "index", "is_final"})
"""Fields of a step's specs about where they were read from, with no effect on the result."""


@dataclass(frozen=True)
class PlanSpecs:
    """What the steps of a plan load, as far as it is known without loading anything."""

    steps: Mapping[str, StepSpecs]
    """By the steps' names; without the steps that load nothing or could not be resolved."""
    is_whole: bool
    """True if every step that loads models could be resolved."""
    accelerator: bool
    """True if they are loaded for an accelerator, which decides default dtypes."""
    missing: tuple[ModelSource, ...] = ()
    """Models of which files are not here."""

    @property
    def components(self) -> Iterator[ComponentSpec]:
        """All components, in the order of the steps."""
        return (component for step in self.steps.values() for component in step.components)

    @cached_property
    def weight_bytes(self) -> Mapping[str, int] | None:
        """Returns the bytes of each component by its key; None where some are unknown."""
        if not self.is_whole:
            return None
        return {each.key: each.weight_bytes for each in self.components}
