"""The engine as the dw> prompt needs it, and its implementation in this process.

Imports are inside the methods: against a running server none of them is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rich.console import Console

from app.dialect.inputs import InputSpec
from app.settings import Settings
from app.shell.home import from_home, with_home

if TYPE_CHECKING:
    from app.catalog.catalog import CatalogEntry

NONE: Mapping[str, Any] = MappingProxyType({})


class Ended(NamedTuple):
    """A run that has ended."""

    seconds: float | None
    """None if it did not succeed."""
    files: list[str]
    sentence: str
    unchanged: bool = False
    """True if an earlier result was reused."""
    seed: int | None = None
    """None if it is not known."""


class Described(NamedTuple):
    """A workflow of a workbench."""

    name: str
    """The name to run it by."""
    title: str
    inputs: tuple[InputSpec, ...]


class Workbench(Protocol):
    """The engine as the prompt needs it, local or remote."""

    def describe(self, name: str) -> Described:
        """Returns the workflow of this name or file."""

    def names(self) -> list[str]:
        """Returns the names of the catalog's workflows."""

    def workflows(self) -> str:
        """Returns the list of workflows as text."""

    def check(
        self,
        name: str,
        inputs: Mapping[str, Any],
        seed: int | None,
        changes: Mapping[str, Any],
    ) -> None:
        """Raises BadRequest, with all problems, if a described workflow cannot run with these."""

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        seed: int | None,
        fresh: bool,
        *,
        changes: Mapping[str, Any] = NONE,
        title: str = "",
    ) -> Ended:
        """Runs a described workflow to its end; a `fresh` run reuses no earlier result.

        `changes` replace values of the document, by JSON pointer; progress is shown behind `title`.
        """

    def status(self) -> str:
        """Returns what the engine is doing, as text."""

    def memory(self) -> str:
        """Returns what the worker holds, as text."""

    def free(self, *, now: bool = False) -> str:
        """Frees the memory; returns what that gave back, as a sentence."""

    def close(self) -> None:
        """Closes the connection or the engine."""


class LocalWorkbench:
    """A `Workbench` with an engine and a worker of this process."""

    def __init__(self, settings: Settings, console: Console | None = None) -> None:
        """Progress is shown on `console`; by default on stdout."""
        from app.engine import Engine

        self._settings = settings
        self._console = console or Console()
        self._inputs: dict[str, tuple[InputSpec, ...]] = {}
        """The inputs of the described workflows."""
        self._engine = Engine()
        self._engine.start(settings)

    def describe(self, name: str) -> Described:
        from app.catalog.catalog import find_workflow
        from app.dialect.loader import read_document
        from app.planning.declarations import declared_inputs

        path = find_workflow(from_home(name), self._settings.paths).resolve()
        self._inputs[str(path)] = specs = declared_inputs(read_document(path))
        return Described(str(path), path.stem, specs)

    def names(self) -> list[str]:
        return [entry.name for entry in self._entries()]

    def _entries(self) -> tuple[CatalogEntry, ...]:
        from app.catalog.catalog import Catalog

        return Catalog(self._settings.paths).entries()

    def workflows(self) -> str:
        entries = self._entries()
        return "\n".join(f"{entry.name:24} {entry.availability}" for entry in entries)

    def check(
        self,
        name: str,
        inputs: Mapping[str, Any],
        seed: int | None,
        changes: Mapping[str, Any],
    ) -> None:
        from app.planning.planner import make_plan

        inputs = with_home(self._inputs[name], inputs)
        make_plan(Path(name), inputs, paths=self._settings.paths, seed=seed, changes=changes)

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        seed: int | None,
        fresh: bool,
        *,
        changes: Mapping[str, Any] = NONE,
        title: str = "",
    ) -> Ended:
        from app.shell.terminal import outcome, run_to_end

        def submit() -> str:
            ready = with_home(self._inputs[name], inputs)
            return self._engine.submit(Path(name), ready, seed=seed, changes=changes, fresh=fresh)

        view = run_to_end(self._engine, submit, self._console, title)
        seconds = view.timings.total_s if view.timings else None
        files = [result.path for result in view.results]
        return Ended(seconds, files, outcome(view), view.unchanged, view.seed)

    def status(self) -> str:
        from app.shell.terminal import status

        return status(self._engine.status())

    def memory(self) -> str:
        from app.shell.terminal import memory

        return memory(self._engine.status())

    def free(self, *, now: bool = False) -> str:
        from app.run_view import freed

        return freed(self._engine.free("cancel_and_free" if now else "when_idle"))

    def close(self) -> None:
        self._engine.close()
