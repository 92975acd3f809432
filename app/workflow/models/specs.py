"""Component specs: what a step loads, resolved. Everybody who has to know reads these.

`resolve.component_specs` makes them, without torch. A spec says everything that decides what is
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

from app.errors import LoadError, WorkbenchError
from app.workflow.files import safe_name
from app.workflow.fingerprint import FileIdentity, of_variant
from app.workflow.models.hub import held, this_machine
from app.workflow.plan_settings import ComponentChanges, DType
from app.workflow.plan_sources import ModelSource
from app.workflow.quantisation import Quantisation, QuantiserKind

CODE = ".py"


class Unknown(WorkbenchError):
    """What a step loads cannot be said here; the message says why."""


class NotHere(LoadError):
    """Files of a model are not on this machine."""

    def __init__(self, source: ModelSource, names: tuple[str, ...], missing: tuple[str, ...]):
        what = f"'{missing[0]}' of '{source.model}'" if missing else f"'{source.model}'"
        super().__init__(
            f"{what} is not on this machine any more.", hint="Run it again: it is then fetched."
        )
        self.source = source
        self.names = names
        """All that is wanted of the model beside its text files."""


class Selection(NamedTuple):
    """Which files of a model are wanted. Its text files (configurations, tokenizers) always are."""

    whole: bool = False
    """Whether it is a whole pipeline, whose index says what else is wanted."""
    folders: tuple[str, ...] = ()
    """Components whose weights are read; "" is the repository's own folder."""
    variant: str | None = None
    """Of these weights the variant."""
    files: tuple[str, ...] = ()
    """Single files; for one that may hold code the safetensors file of its name beside it."""
    adapters: tuple[str, ...] = ()
    """Folders all of whose safetensors files are wanted."""
    code: bool = False
    """Whether the repository's own modules are wanted."""

    def of(self, names: Sequence[str]) -> list[str]:
        """Of all files of the repository the wanted ones beside its text files."""
        chosen = [*weights_of(self.folders, self.variant, names)]
        for file in self.files:
            name = safe_name(file, names, allow_pickles=True)
            chosen += [name] if name is not None and name in names else []
        for folder in self.adapters:
            chosen += _in_folder(folder, names)
        if self.code:
            chosen += [name for name in names if name.endswith(CODE)]
        return list(dict.fromkeys(chosen))


TEXTS = Selection()
"""A model's text files alone."""

Find = Callable[[ModelSource, Selection], Path]
"""Returns the folder of a model in which what is wanted lies: looked up, asked for at the hub, or
fetched. Raises Unknown or LoadError with a sentence."""


def local_folder(source: ModelSource, wanted: Selection) -> Path:
    """The folder of a model on this machine, which has what is wanted; raises NotHere."""
    if source.folder is not None:
        return Path(source.folder)
    found = held(this_machine(), source.model, source.revision, wanted.of)
    if found.folder is None or found.missing:
        raise NotHere(source, found.wanted, found.missing)
    return found.folder


def known_folder(source: ModelSource, wanted: Selection) -> Path:
    """As `local_folder`, for who loads nothing; raises Unknown."""
    try:
        return local_folder(source, wanted)
    except NotHere:
        raise Unknown(
            f"memory needs unknown until '{source.short_name}' has been downloaded."
        ) from None


def weights_of(folders: Iterable[str], variant: str | None, files: Sequence[str]) -> Iterator[str]:
    """Of these files the weights a load from these folders reads; "" is the repository's own."""
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        names = (name.removeprefix(prefix) for name in _in_folder(folder, files))
        yield from (prefix + name for name in of_variant(names, variant))


def _in_folder(folder: str, files: Sequence[str]) -> list[str]:
    """The safetensors files that lie in this very folder."""
    prefix = f"{folder}/" if folder else ""
    return [
        name
        for name in files
        if name.startswith(prefix)
        and name.endswith(".safetensors")
        and "/" not in name.removeprefix(prefix)
    ]


NOT_DECISIVE = frozenset({"name", "source", "folder", "weight_bytes", "shared_by"})
"""Fields of a spec that decide nothing about what is loaded: what it is called, and where its files
lie; the files themselves are identified."""


@dataclass(frozen=True)
class ComponentSpec:
    """One component of a step: everything that decides what is loaded, and how large it is."""

    name: str
    class_name: str
    """Qualified: `diffusers.UNet2DConditionModel`."""
    source: ModelSource
    folder: Path
    """Where its configuration lies, and its weights if they are in no single file."""
    files: tuple[FileIdentity, ...]
    """The files it is loaded from, as they are now."""
    dtype: DType
    variant: str | None
    weight_bytes: int
    """As it will be held; an estimate where it is quantised while it is loaded."""
    quantisation: Quantisation | None = None
    quantiser: QuantiserKind | None = None
    """What its weights are quantised with: now, or before they were published."""
    file: Path | None = None
    """The single file that has its weights."""
    tool_files: Mapping[str, str] = field(default_factory=dict)
    """Of a model that its own library loads: what that calls the files → where they are."""
    changes: ComponentChanges | None = None
    """What is done to it when it has been loaded."""
    sdnq_matmul: bool = False
    """Whether it multiplies as SDNQ has quantised it."""
    shared_by: str | None = None
    """The earlier step whose component it is."""

    @cached_property
    def key(self) -> str:
        """The key under which it is held: 32 hex digits, the same for what is loaded the same."""
        decisive: dict[str, Any] = {
            each.name: getattr(self, each.name)
            for each in fields(ComponentSpec)
            if each.name not in NOT_DECISIVE
        }
        # Where a class is defined in its package, and where a file lies, decide nothing.
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
        """As the document names it."""
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
    """A LoRA or an IP-adapter of a step."""

    folder: Path
    """From which its library reads it; see `load_lora_weights`, `load_ip_adapter`."""
    file: Path | None
    """Its weights; None: whatever safetensors file lies in the folder."""
    files: tuple[FileIdentity, ...]
    """What it may read there, as it is now; a file that is missing is told of by the load."""


@dataclass(frozen=True)
class StepSpecs:
    """Everything a step is put together from."""

    class_name: str
    """The pipeline's, unqualified; "" of a task."""
    folder: Path
    """The model's, with its index."""
    components: tuple[ComponentSpec, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's constructor: absent components, plain values."""
    loras: tuple[AdapterSpec, ...] = ()
    """In the order of the step's."""
    ip_adapter: AdapterSpec | None = None
    index: FileIdentity | None = None
    """The model's index as it was read; None where there is none."""
    is_final: bool = True
    """False where the worker may find another list, because it takes code to know it: a modular
    pipeline's blocks, a model's own classes, or a file that may hold code."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything in it that decides what the step makes, by the names of the fields."""
        decisive = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in PLACES
        }
        decisive["components"] = [(each.name, each.key) for each in self.components]
        decisive["loras"] = [each.files for each in self.loras]
        decisive["ip_adapter"] = self.ip_adapter and self.ip_adapter.files
        return decisive

    @property
    def weight_bytes(self) -> int:
        """Of all components together, each once."""
        return sum({each.key: each.weight_bytes for each in self.components}.values())


PLACES = frozenset({"folder", "index", "is_final"})
"""Fields of a step's specs that say where they were read from, and decide nothing."""


@dataclass(frozen=True)
class PlanSpecs:
    """What the steps of a plan load, as far as it could be told without loading anything."""

    steps: Mapping[str, StepSpecs]
    """By the steps' names; without the steps that load nothing or could not be resolved."""
    is_whole: bool
    """Whether every step that loads something could be resolved."""
    accelerator: bool
    """Whether they are loaded for an accelerator, which decides the dtypes left open."""
    missing: tuple[ModelSource, ...] = ()
    """Models of which files are not here."""

    @property
    def components(self) -> Iterator[ComponentSpec]:
        """All components, in the order of the steps."""
        return (component for step in self.steps.values() for component in step.components)

    @cached_property
    def weight_bytes(self) -> Mapping[str, int] | None:
        """The bytes of each component by its key; None where some are not known."""
        if not self.is_whole:
            return None
        return {each.key: each.weight_bytes for each in self.components}
