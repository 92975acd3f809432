"""Layering: torch only in the worker, gradio only in the page."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import PROJECT

APP = PROJECT / "app"
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft"}
MODULES = sorted(APP.rglob("*.py"))


def name_of(file: Path) -> str:
    """Returns `app.dialect.plan` for `app/dialect/plan.py`."""
    parts = file.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(file: Path) -> str:
    """Returns `app.dialect` for `app/dialect/plan.py`."""
    return name_of(file.parent / "__init__.py")


LIGHT = [
    name
    for name in map(name_of, MODULES)
    if not name.startswith(("app.ui.", "app.worker.", "app.compat.")) and name != "app.__main__"
]


def loaded_by(*statements: str) -> set[str]:
    """Returns the packages loaded in a fresh process after these statements."""
    code = "\n".join(
        [
            *statements,
            "import json, sys",
            "print(json.dumps([n for n in sys.modules if '.' not in n]))",
        ]
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


class Import(ast.NodeVisitor):
    """The imports of one module, and whether they run on import."""

    def __init__(self, source: str, package: str) -> None:
        self.found: list[tuple[str, bool]] = []
        self._package = package
        self._deferred = 0
        self.visit(ast.parse(source))

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, not self._deferred) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self._package.split(".")[: -(node.level - 1) or None]
            base = ".".join([*above, base]).rstrip(".")
        self.found += [(f"{base}.{alias.name}", not self._deferred) for alias in node.names]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_deferred(node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_deferred(node.body)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return  # only types: never executed, in either layer
        self.generic_visit(node)

    def _visit_deferred(self, body: list[ast.stmt]) -> None:
        self._deferred += 1
        for statement in body:
            self.visit(statement)
        self._deferred -= 1


def imports(file: Path, *, at_once_only: bool = False) -> Iterator[str]:
    """Returns every name this module imports, also inside functions unless `at_once_only`."""
    read = Import(file.read_text(encoding="utf-8"), package_of(file))
    return (name for name, at_once in read.found if at_once or not at_once_only)


def within(folder: str) -> list[Path]:
    files = [file for file in MODULES if file.is_relative_to(APP / folder)]
    assert files, f"there is nothing in app/{folder} any more"
    return files


def test_modules_outside_page_and_worker_import_without_torch_and_gradio():
    loaded = loaded_by(*(f"import {name}" for name in LIGHT))
    assert "pydantic" in loaded
    assert not loaded & {*HEAVY, "gradio"}


def test_page_imports_without_torch():
    loaded = loaded_by("import app.ui.app")
    assert "gradio" in loaded
    assert not loaded & HEAVY


def test_listing_converted_weights_needs_no_torch():
    assert not loaded_by("from app.worker.loading.converted import ConvertedWeights") & HEAVY


def test_planning_imports_nothing_heavy():
    loaded = loaded_by(
        "from app.settings import SHIPPED_WORKFLOWS, PathSettings",
        "from app.planning.planner import make_plan",
        "plan = make_plan(SHIPPED_WORKFLOWS / 'sdxl.json', {}, paths=PathSettings())",
        "assert plan.steps[0].pipeline_class == 'diffusers.StableDiffusionXLPipeline'",
    )
    assert not loaded & {*HEAVY, "gradio"}


def is_below(file: Path, *folders: str) -> bool:
    return any(file.is_relative_to(APP / folder) for folder in folders)


def relative(file: Path) -> str:
    return file.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_only_the_worker_imports_torch_at_module_level(file: Path):
    heavy = {name for name in imports(file, at_once_only=True) if name.partition(".")[0] in HEAVY}
    assert not heavy or is_below(file, "worker", "compat/worker")


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_only_the_page_imports_gradio(file: Path):
    gradio = [name for name in imports(file) if name.partition(".")[0] == "gradio"]
    assert not gradio or is_below(file, "ui", "compat/ui")


ROOMS = [
    "ground floor",
    "media",
    "tasks",
    "dialect",
    "models",
    "messages",
    "planning",
    "catalog",
    "compat.ui",
    "compat.worker",
    "worker",
    "engine",
    "api",
    "ui",
    "shell",
]
"""The rooms of `app/`, each of which imports only those above it here."""
APART = {
    ("worker", "compat.ui"),
    ("compat.worker", "compat.ui"),
    ("engine", "worker"),
    ("ui", "worker"),
    ("api", "worker"),
    ("api", "compat.ui"),
    ("api", "compat.worker"),
    ("ui", "compat.worker"),
    ("shell", "ui"),
}
"""Rooms that do not import each other either, but for the two entry points."""
ENTRIES = {
    ("app.shell.cli", "app.ui.server"),
    ("app.engine.slots.local", "app.worker.main"),
}


def room_of(name: str) -> str:
    """Returns `worker` for `app.worker.steps.task`, `ground floor` for most modules of `app`."""
    _, first, *below = name.split(".")
    if first in {"protocol", "run_view"}:
        return "messages"
    if first == "compat" and below:
        return f"compat.{below[0]}"
    return first if first in ROOMS else "ground floor"


def own_imports(source: str, package: str, names: set[str]) -> set[str]:
    """Returns the imports of these modules: on import, in functions, or for types."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, _ in Import(ast.unparse(node), package).found:
                while name and name not in names:
                    name = name.rpartition(".")[0]
                found.add(name)
    # Every import below a package imports the package itself.
    return found - {"", "app"}


def test_imports_form_no_cycle():
    names = set(map(name_of, MODULES))
    graph = {
        name: own_imports(file.read_text(encoding="utf-8"), package_of(file), names) - {name}
        for file, name in zip(MODULES, map(name_of, MODULES), strict=True)
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_rooms_import_only_rooms_below_them():
    names = set(map(name_of, MODULES))
    wrong = set()
    for file in MODULES:
        if (name := name_of(file)) in {"app", "app.__main__"}:
            continue
        for imported in own_imports(file.read_text(encoding="utf-8"), package_of(file), names):
            room, other = room_of(name), room_of(imported)
            upwards = ROOMS.index(other) > ROOMS.index(room)
            if upwards or ((room, other) in APART and (name, imported) not in ENTRIES):
                wrong.add(f"{name} imports {imported}")
    assert not wrong


def test_import_cycles_are_found_in_functions_and_types():
    source = """
if TYPE_CHECKING:
    from app.for_types import Only
def call():
    from . import beside
    import app.far.thing as thing, torch
"""
    names = {"app", "app.for_types", "app.here.beside", "app.far.thing", "app.unused"}
    assert own_imports(source, "app.here", names) == names - {"app", "app.unused"}


def test_import_parser_handles_every_form():
    source = """
import os.path
from app.ui import markup
from . import here
from .. import above
from ..engine.assign import assign
if TYPE_CHECKING:
    import only_types
try:
    import tried
except ImportError:
    pass
class Lazy:
    import of_a_class
    async def call(self):
        from torch import nn
"""
    at_once = ["os.path", "app.ui.markup", "app.ui.here", "app.above",
               "app.engine.assign.assign", "tried", "of_a_class"]  # fmt: skip
    assert Import(source, "app.ui").found == [
        *((name, True) for name in at_once),
        ("torch.nn", False),
    ]


# --- one resolver --------------------------------------------------------------------------------

CALLERS: dict[str, set[str]] = {
    "ComponentSpec": {"app.models.component_files", "app.models.resolve"},
    "AdapterSpec": {"app.models.adapters"},
    # Preparation, downloads, fit, and components that only the worker knows.
    "component_specs": {
        "app.models.plan_specs",
        "app.models.wanted",
        "app.models.needs",
        "app.worker.loading.load",
        "app.worker.loading.modular",
        "app.worker.loading.task_parts",
    },
    # The worker reads an index for classes of allowed code, and of blocks.
    "read_pipeline_index": {"app.models.pipeline_layout", "app.worker.loading.load"},
    "model_index": {"app.models.resolve", "app.worker.loading.modular"},
    # Planning reads it for the pipeline's call, and the repositories in it; a download without a
    # list of files is compared with it, and the list of models names its class.
    "read_index": {
        "app.models.inventory",
        "app.models.pipeline_shapes",
        "app.models.unlisted",
        "app.planning.called",
        "app.planning.modular",
    },
}
"""Modules that may call the functions which turn models' indexes into components."""


@pytest.mark.parametrize("name", CALLERS)
def test_components_are_resolved_in_one_place(name: str):
    found = {
        name_of(file)
        for file in MODULES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name
    }
    assert found == CALLERS[name]


def test_index_of_a_model_is_read_by_its_own_module_alone():
    named = {name_of(file) for file in MODULES if '"model_index.json"' in file.read_text("utf-8")}
    assert named == {"app.models.model_index"}
