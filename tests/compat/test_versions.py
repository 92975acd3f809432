"""Each work-around names the faulty project's version."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import pytest

from app.settings import PROJECT
from tests.test_layering import Import

COMPAT = PROJECT / "app" / "compat"
FILES = [
    file
    for file in sorted(COMPAT.rglob("*"))
    if file.suffix in (".py", ".js") and file.name != "__init__.py"
]
NEEDED = re.compile(r"Needed\s+(?:// )?with\s+(?:// )?([\w-]+)\s+(?:// )?([\d.]+\d)")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_work_around_matches_installed_version(file):
    found = NEEDED.findall(file.read_text(encoding="utf-8"))
    assert found, "say which version it is needed with: 'Needed with PROJECT VERSION.'"
    for project, wanted in found:
        try:
            installed = version(project)
        except PackageNotFoundError:
            continue
        assert installed.partition("+")[0] == wanted, (
            f"{file.name} was needed with {project} {wanted}. Remove it if {installed} does without"
            " it, or name this version in it."
        )


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".py"])
def test_work_around_does_not_import_application(file):
    found = Import(file.read_text(encoding="utf-8"), "app.compat").found
    assert not [name for name, _ in found if name.startswith("app.")]
