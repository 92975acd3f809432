"""Checks the documentation: files, headings, commands, settings, packages."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from app.planning.pipelines import REFUSED_LOADING_ARGUMENTS
from app.settings import PROJECT, variables
from app.shell.command_line import parser
from app.tasks import REFUSED

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^python -m app\b(.*?)(?:\s#.*)?$", re.MULTILINE)
SETTING = re.compile(r"\bDW_[A-Z_]+\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_target_exists(page: Path):
    for target, anchor in LINK.findall(page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert file.is_relative_to(PROJECT)
        assert not anchor or anchor[1:] in anchors(file), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_valid(page: Path):
    for language, block in FENCED.findall(page.read_text()):
        for words in COMMAND.findall(block) if language == "sh" else ():
            parser().parse_args(shlex.split(words.partition(" < ")[0]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path):
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


def test_exactly_the_existing_settings_are_described():
    described = set(SETTING.findall((PROJECT / "docs" / "operating.md").read_text()))
    assert described == {variable for _, variable in variables()}
    mentioned = {name for page in PAGES for name in SETTING.findall(page.read_text())}
    assert mentioned - described <= {"DW_REAL_WORKFLOWS"}  # the tests' own


def test_every_benchmark_in_figures_is_run_by_make_bench():
    readme = (PROJECT / "README.md").read_text()
    named = set(re.findall(r"^\| \*\*`(\w+)`\*\*", readme, re.MULTILINE))
    run = re.search(r"\$\(or \$\(ARGS\),([\w ]+)\)", (PROJECT / "Makefile").read_text())
    assert run is not None
    assert named == set(run[1].split())
    assert all((PROJECT / "benchmarks" / f"{name}.py").is_file() for name in named)


def test_every_refused_task_and_argument_is_described():
    page = (PROJECT / "docs" / "dialect-coverage.md").read_text()
    assert all(f"`{name}`" in page for name in (*REFUSED, *REFUSED_LOADING_ARGUMENTS))


def test_every_imported_package_is_pinned():
    """Those that only some workflows need are in requirements-extras.txt."""
    pinned = {
        name.lower().replace("-", "_")
        for file in ("requirements.txt", "requirements-extras.txt")
        for name in re.findall(r"^([\w.-]+)==", (PROJECT / file).read_text(), re.MULTILINE)
    }
    called = {"cv2": "opencv_python_headless", "PIL": "pillow", "pydantic_core": "pydantic",
              "annotated_types": "pydantic", "optimum": "optimum_quanto",
              "yaml": "pyyaml"}  # fmt: skip
    found = {
        module
        for folder in ("app", "models", "benchmarks")
        for file in (PROJECT / folder).rglob("*.py")
        for module in re.findall(r"^\s*(?:import|from) (\w+)[\w.]*(?: import | as |$)",
                                 file.read_text(), re.MULTILINE)
    }  # fmt: skip
    own = {"app", "models", "benchmarks", *sys.stdlib_module_names}
    assert {called.get(name, name).lower() for name in found - own} <= pinned


def anchors(page: Path) -> set[str]:
    """Returns the headings of a page as link anchors."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
