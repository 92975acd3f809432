"""The catalog: which workflows exist, their inputs, and whether they are ready to run."""

from __future__ import annotations

import itertools
import logging
import re
import threading
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from app.catalog.named_files import missing_files
from app.catalog.uses import fed_arguments, result_type
from app.dialect.inputs import InputSpec, printable
from app.dialect.loader import read_document
from app.dialect.naming import one_line, slug, workflow_names
from app.errors import (
    ErrorReport,
    InvalidWorkflow,
    UnknownWorkflow,
    WorkbenchError,
    nearest,
    shortened,
)
from app.frozen import Frozen
from app.models.hub import DOWNLOAD_BYTES, find_in_folders, find_snapshot
from app.models.kind_folders import bare_names
from app.models.plan_specs import plan_specs
from app.planning.declarations import declared_inputs
from app.planning.drafts import Draft, draft_plan
from app.settings import SHIPPED_WORKFLOWS, PathSettings
from app.stamps import stamp_of

log = logging.getLogger(__name__)

MAX_DESCRIPTION_LENGTH = 4000
MAX_NAMES_LISTED = 50
ACRONYMS = {"sd", "sdxl", "flux", "lora", "gpu", "t2v", "i2v"}


class CatalogEntry(Frozen):
    """One workflow of the dropdown."""

    name: str
    """Unique and stable: the file's stem as a slug, `text-to-image`; see `workflow_names`."""
    title: str
    description: str
    path: str
    inputs: tuple[InputSpec, ...]
    models: tuple[str, ...]
    steps: int
    content_type: str = ""
    """Of its final results; "" where it saves none."""
    feeds: dict[str, str] = Field(default_factory=dict)
    """The input that feeds each argument of a pipeline."""
    ready: bool
    """True if all files it loads are on this machine."""
    download_bytes: int | None
    availability: str
    problem: ErrorReport | None = None


class _Read(NamedTuple):
    """A cached entry, with the stamp of its file."""

    stamp: object
    entry: CatalogEntry


class _Drafted(NamedTuple):
    """A cached draft, with the stamps of its files."""

    stamps: tuple[object, ...]
    draft: Draft


class Catalog:
    """The workflows in these folders; changed files are read again."""

    def __init__(self, paths: PathSettings) -> None:
        self._paths = paths
        self._read: dict[Path, _Read] = {}
        self._drafts: dict[str, _Drafted] = {}
        self._names: dict[Path, str] = {}
        self._naming = threading.Lock()

    def entries(self) -> tuple[CatalogEntry, ...]:
        """Returns all workflows: shipped ones first, of those the ready ones, of those the ones
        that run without inputs, the simplest first. A broken file is reported in its own entry and
        hides no other."""
        found = [self._with_what_is_here(entry) for entry in self._listed()]
        shipped = SHIPPED_WORKFLOWS.resolve()

        def order(entry: CatalogEntry) -> tuple[bool, bool, bool, int]:
            asks = any(spec.required and spec.default is None for spec in entry.inputs)
            ships = Path(entry.path).is_relative_to(shipped)
            return (not ships, not entry.ready, asks, entry.steps)

        return tuple(sorted(found, key=order))

    def find(self, name: str) -> CatalogEntry:
        """Returns the workflow of this name. Raises UnknownWorkflow with the nearest name."""
        name = unicodedata.normalize("NFC", name)
        listed = {entry.name: entry for entry in self._listed()}
        if name not in listed:
            entries = {entry.name: entry for entry in self.entries()}
            alike = [other for other in entries if other.rpartition("-")[0] == name]
            there = ", ".join([*itertools.islice(entries, MAX_NAMES_LISTED)])
            raise UnknownWorkflow(
                f"There is no workflow '{shortened(printable(name))}'.",
                hint=f"Files with similar names are listed as {', '.join(alike)}."
                if len(alike) > 1
                else nearest(name, entries) or f"There are: {there}.",
            )
        return self._with_what_is_here(listed[name])

    def _listed(self) -> list[CatalogEntry]:
        """Returns all entries with their names, without their readiness."""
        files = self._files()
        with self._naming:
            self._names = names = workflow_names(files, self._names)
        return [self._entry(file).model_copy(update={"name": names[file]}) for file in files]

    def _files(self) -> list[Path]:
        """Returns all files with a workflow's suffix, in the order of the folders."""
        found: dict[Path, None] = {}
        for folder in self._paths.workflows:
            try:
                here = sorted(folder.resolve().glob("*.json"), key=lambda file: file.stem)
            except OSError as error:
                log.warning("The folder %r cannot be listed: %s", str(folder), error.strerror)
                continue
            found.update(dict.fromkeys(here))
        return list(found)

    def _entry(self, path: Path) -> CatalogEntry:
        stamp = _stamp(path)
        known = self._read.get(path)
        if known is None or known.stamp != stamp:
            self._read[path] = known = _Read(stamp, _read_entry(path))
        return known.entry

    def _with_what_is_here(self, entry: CatalogEntry) -> CatalogEntry:
        """Returns the entry with the names of models that its inputs take, and its readiness."""
        inputs = tuple(
            spec
            if spec.models is None
            else spec.model_copy(update={"choices": bare_names(spec.models, self._paths)})
            for spec in entry.inputs
        )
        found = entry.model_copy(update={"inputs": inputs})
        return found.model_copy(update=self._readiness(found))

    def _readiness(self, entry: CatalogEntry) -> dict[str, Any]:
        if entry.problem is not None:
            return {"ready": False, "availability": "has a mistake in its file"}
        for spec in entry.inputs:
            if spec.models is not None and spec.required and not (spec.choices or spec.default):
                return {"ready": False, "availability": f"needs a file in models/{spec.models}"}
        draft = self._draft(entry.path)
        models = tuple(dict.fromkeys(each.model for step in draft.steps for each in step.sources))
        return {"models": models, **_availability(draft)}

    def _draft(self, path: str) -> Draft:
        known = self._drafts.get(path)
        if known is None or not _still_stands(known, self._paths):
            draft = Draft((), (Path(path),), lacks_folder=False)
            try:
                draft = draft_plan(read_document(Path(path)), self._paths)
            except WorkbenchError as error:
                log.debug("The workflow %r cannot be planned: %s", path, error)
            except Exception:
                # Any failure is a mistake of one file and hides no other.
                log.exception("The workflow %r cannot be planned", path)
            known = _Drafted(tuple(map(_stamp, draft.files)), draft)
            self._drafts[path] = known
        return known.draft


def _still_stands(known: _Drafted, paths: PathSettings) -> bool:
    """Returns True if a draft is still current."""
    draft = known.draft
    if draft.is_refused or draft.lacks_folder or draft.lacks_file:
        return False
    if tuple(map(_stamp, draft.files)) != known.stamps:
        return False
    return all(
        find_in_folders(source.model, paths.models) is None
        if source.folder is None
        else Path(source.folder).is_dir()
        for step in draft.steps
        for source in step.sources
    )


def find_workflow(name: str, paths: PathSettings) -> Path:
    """Returns the file for a path or a name of the catalog. Raises UnknownWorkflow."""
    if name.endswith(".json") or "/" in name:
        return Path(name)
    return Path(Catalog(paths).find(name).path)


def _stamp(path: Path) -> object:
    """Returns a value that changes with the file, or with the error of reading it."""
    try:
        return stamp_of(path)
    except OSError as error:
        return error.errno


def missing_entry(name: str, problem: ErrorReport) -> CatalogEntry:
    """Returns the entry of a workflow whose file has gone since it was listed."""
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
    """Returns the entry of this file, named after it alone."""
    entry = CatalogEntry(
        name=slug(path.stem),
        title=one_line(_title(path.stem)) or "Workflow",
        description="",
        path=printable(str(path)),
        inputs=(),
        models=(),
        steps=0,
        ready=False,
        download_bytes=None,
        availability="",
    )
    try:
        return entry.model_copy(update=_facts(path))
    except WorkbenchError as error:
        return entry.model_copy(update={"problem": error.report()})
    except Exception as error:
        # Any failure is a mistake of one file and hides no other.
        log.exception("The workflow %r cannot be listed", str(path))
        problem = ErrorReport(
            kind="InvalidWorkflow",
            message=f"'{one_line(path.name)}' cannot be listed ({type(error).__name__}).",
            hint="The server's log says more.",
        )
        return entry.model_copy(update={"problem": problem})


def _facts(path: Path) -> dict[str, Any]:
    """Returns the entry's fields from the document. Raises WorkbenchError where it cannot run."""
    raw = read_document(_inside_its_folder(path))
    # An id that only repeats the file's name reads better as words.
    identity = one_line(str(raw.tree.get("id", "")))
    steps = raw.tree.get("steps")
    return {
        **({"title": identity} if identity not in ("", path.stem) else {}),
        "description": str(raw.tree.get("description", ""))[:MAX_DESCRIPTION_LENGTH],
        "path": str(raw.path),
        "inputs": declared_inputs(raw),
        "steps": len(steps) if isinstance(steps, list) else 0,
        "content_type": result_type(raw),
        "feeds": fed_arguments(raw.tree),
    }


def _inside_its_folder(path: Path) -> Path:
    """Returns the file with its links resolved. Raises InvalidWorkflow for one not to be listed."""
    called = one_line(path.name)
    if printable(path.name) != path.name:
        raise InvalidWorkflow(
            f"The name '{called}' is not UTF-8, so it cannot be listed.", hint="Rename the file."
        )
    try:
        file = path.resolve(strict=True)
        is_file = file.is_file()
    except (OSError, RuntimeError) as error:
        wrong = error.strerror if isinstance(error, OSError) else "its links lead in a circle"
        raise InvalidWorkflow(f"'{called}' cannot be read: {wrong}.") from error
    if not file.is_relative_to(path.parent):
        raise InvalidWorkflow(
            f"'{called}' is a link to a file outside its folder.",
            hint="Copy the file, or give that folder with --workflows.",
        )
    if not is_file:
        raise InvalidWorkflow(f"'{called}' is no file.", hint="A workflow is a file.")
    return file


def _availability(draft: Draft) -> dict[str, Any]:
    """Returns the readiness, looked up each time: a model may have been downloaded meanwhile."""
    if draft.lacks_folder:
        return {"ready": False, "availability": "its model folder is missing"}
    missing = missing_files(draft.steps)
    if draft.lacks_file or missing.unknown:
        return {"ready": False, "availability": "a file that it names is missing"}
    if draft.lacks_package:
        return {"ready": False, "availability": "needs a package that is not installed"}
    if draft.is_refused:
        return {"ready": False, "availability": "cannot run as it stands"}
    sources = dict.fromkeys(source for step in draft.steps for source in step.sources)
    of_the_hub = [source for source in sources if source.folder is None]
    lacking = [s.model for s in of_the_hub if find_snapshot(s.model, s.revision, part="") is None]
    lacking += missing.to_download
    if of_the_hub and not lacking:
        lacking = [source.model for source in plan_specs(draft.steps).missing]
    absent = [*dict.fromkeys(lacking)]
    if not absent:
        return {"ready": True, "availability": "ready"}
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


def _title(stem: str) -> str:
    words = re.split(r"[-_\s]+", stem)
    shown = [word.upper() if word.lower() in ACRONYMS else word for word in words]
    text = " ".join(shown)
    return text[:1].upper() + text[1:]
