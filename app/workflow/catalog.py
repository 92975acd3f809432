"""Which workflows exist, what they ask for, and whether they are ready here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from app.errors import ErrorReport, UnknownWorkflow, WorkbenchError, nearest
from app.settings import SHIPPED_WORKFLOWS, PathSettings
from app.workflow.declarations import declared_inputs
from app.workflow.files import can_be_path
from app.workflow.frozen import Frozen
from app.workflow.inputs import InputSpec
from app.workflow.loader import read_document
from app.workflow.models.hub import DOWNLOAD_BYTES, find_in_folders, find_snapshot, is_repository
from app.workflow.planning.task_models import models_named
from app.workflow.references import parse

ACRONYMS = {"sd", "sdxl", "flux", "lora", "gpu", "t2v", "i2v"}


class CatalogEntry(Frozen):
    """One workflow of the dropdown."""

    name: str
    """Unique and stable: the file's stem as a slug, `text-to-image`."""
    title: str
    description: str
    path: str
    inputs: tuple[InputSpec, ...]
    models: tuple[str, ...]
    steps: int
    ready: bool
    """Whether everything it loads is on this machine."""
    download_bytes: int | None
    availability: str
    problem: ErrorReport | None = None


class _Read(NamedTuple):
    """An entry as last read, with what tells that its file has changed."""

    stamp: tuple[int, int]
    entry: CatalogEntry


class Catalog:
    """The workflows in these folders; files are read again when they have changed."""

    def __init__(self, paths: PathSettings) -> None:
        self._folders = paths.workflows
        self._models = paths.models
        self._read: dict[Path, _Read] = {}

    def entries(self) -> tuple[CatalogEntry, ...]:
        """All workflows: those that ship first, of those the ones that are ready, and of those the
        ones that run at a click, the simplest first."""
        taken: set[str] = set()
        found: list[CatalogEntry] = []
        for path in self._files():
            entry = self._entry(path)
            name, number = entry.name, 2
            while name in taken:
                name, number = f"{entry.name}-{number}", number + 1
            taken.add(name)
            found.append(
                entry.model_copy(update={"name": name, **_availability(entry, self._models)})
            )
        shipped = SHIPPED_WORKFLOWS.resolve()

        def order(entry: CatalogEntry) -> tuple[bool, bool, bool, int]:
            asks = any(spec.required and spec.default is None for spec in entry.inputs)
            ships = Path(entry.path).is_relative_to(shipped)
            return (not ships, not entry.ready, asks, entry.steps)

        return tuple(sorted(found, key=order))

    def find(self, name: str) -> CatalogEntry:
        """The workflow of this name. Raises UnknownWorkflow with the nearest name."""
        entries = {entry.name: entry for entry in self.entries()}
        if name not in entries:
            raise UnknownWorkflow(
                f"There is no workflow '{name}'.",
                hint=nearest(name, entries) or f"There are: {', '.join(entries)}.",
            )
        return entries[name]

    def _files(self) -> Iterator[Path]:
        for folder in self._folders:
            yield from (path.resolve() for path in sorted(folder.glob("*.json")) if path.is_file())

    def _entry(self, path: Path) -> CatalogEntry:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._read.get(path)
        if known is None or known.stamp != stamp:
            self._read[path] = known = _Read(stamp, _read_entry(path))
        return known.entry


def missing_entry(name: str, problem: ErrorReport) -> CatalogEntry:
    """What stands for a workflow whose file has gone since it was listed."""
    return CatalogEntry(
        name=name,
        title=name,
        description="",
        path="",
        inputs=(),
        models=(),
        steps=0,
        ready=False,
        download_bytes=None,
        availability="is no longer there",
        problem=problem,
    )


def _read_entry(path: Path) -> CatalogEntry:
    title = _title(path.stem)
    problem, description = None, ""
    inputs: tuple[InputSpec, ...] = ()
    models: tuple[str, ...] = ()
    steps = 0
    try:
        raw = read_document(path)
        # An id that only repeats the file's name reads better as words.
        identity = str(raw.tree.get("id", ""))
        title = identity if identity not in ("", path.stem) else title
        inputs = declared_inputs(raw)
        description = str(raw.tree.get("description", ""))
        document_steps = raw.tree.get("steps")
        steps = len(document_steps) if isinstance(document_steps, list) else 0
        models = tuple(dict.fromkeys(_models(raw.tree, raw.tree.get("variables", {}))))
    except WorkbenchError as error:
        problem = error.report()
    return CatalogEntry(
        name=re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "workflow",
        title=title,
        description=description,
        path=str(path),
        inputs=inputs,
        models=models,
        steps=steps,
        ready=False,
        download_bytes=None,
        availability="",
        problem=problem,
    )


def _availability(entry: CatalogEntry, models: tuple[Path, ...]) -> dict[str, Any]:
    """Readiness is looked up each time: a model may have been downloaded meanwhile."""
    if entry.problem is not None:
        return {"ready": False, "availability": "has a mistake in its file"}
    folder = Path(entry.path).parent
    absent = [model for model in entry.models if not _is_here(model, folder, models)]
    if not absent:
        return {"ready": True, "availability": "ready"}
    if not all(is_repository(model) for model in absent):
        return {"ready": False, "availability": "its model folder is missing"}
    sizes = [DOWNLOAD_BYTES.get(model) for model in absent]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return {"ready": False, "availability": "downloads its model first"}
    gigabytes = sum(known) / 1e9
    return {
        "ready": False,
        "download_bytes": sum(known),
        "availability": f"downloads about {gigabytes:.1f} GB first"
        if gigabytes < 10
        else f"downloads about {gigabytes:.0f} GB first",
    }


def _is_here(model: str, folder: Path, models: tuple[Path, ...]) -> bool:
    local = find_in_folders(model, models) or folder / model
    if not can_be_path(local):
        return False
    if local.is_file():
        return True
    found = find_snapshot(model, part="") if is_repository(model) else None
    return any(
        (folder / "model_index.json").is_file() or any(folder.glob("*.safetensors"))
        for folder in (local, found)
        if folder is not None
    )


def _models(tree: Any, variables: dict[str, Any]) -> Iterator[str]:
    """Every model a document names, a variable's by its default."""
    if isinstance(tree, dict):
        if "command" in tree:
            yield from models_named(_with_defaults(tree, variables))
            return
        for key, value in tree.items():
            named = _with_defaults(value, variables) if key == "model_name" else None
            if isinstance(named, str):
                yield named
            else:
                yield from _models(value, variables)
    elif isinstance(tree, list):
        for item in tree:
            yield from _models(item, variables)


def _with_defaults(tree: Any, variables: dict[str, Any]) -> Any:
    """The tree with the defaults of the variables that it refers to."""
    if isinstance(tree, dict):
        return {key: _with_defaults(value, variables) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_defaults(item, variables) for item in tree]
    reference = parse(tree)
    return tree if reference is None else variables.get(reference.target, tree)


def _title(stem: str) -> str:
    words = re.split(r"[-_\s]+", stem)
    shown = [word.upper() if word.lower() in ACRONYMS else word for word in words]
    text = " ".join(shown)
    return text[:1].upper() + text[1:]
