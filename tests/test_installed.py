"""The wheel: its metadata, and the command `dw` installed from it, called in another folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import NamedTuple

import pytest

from app import __version__
from app.places import Places, places_of
from app.settings import PROJECT

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


class Installed(NamedTuple):
    """An installed workbench, and the home of its user."""

    packages: Path
    home: Path

    @property
    def data(self) -> Path:
        return self.home / "data" / "diffusers-workbench"

    def __call__(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Calls `dw` as a shell would, in the user's home."""
        environment = {key: text for key, text in os.environ.items() if not key.startswith("DW_")}
        environment |= {
            "PYTHONPATH": str(self.packages),
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home / "data"),
        }
        return subprocess.run(
            [sys.executable, str(self.packages / "bin" / "dw"), *words], cwd=self.home,
            env=environment, input=typed, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def dw(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Builds the wheel and installs it, both without the network."""
    folder = tmp_path_factory.mktemp("installed")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    subprocess.run([*PIP, *build, str(PROJECT)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", str(folder / "packages")]
    subprocess.run([*PIP, *install, str(wheel)], check=True, timeout=120)
    (folder / "home").mkdir()
    return Installed(folder / "packages", folder / "home")


def pinned(name: str) -> set[str]:
    return set(re.findall(r"^[\w.-]+==[\w.]+", (PROJECT / name).read_text(), re.MULTILINE))


def named(requirements: set[str]) -> set[str]:
    """Returns the requirements with names as they are compared."""
    return {text.lower().replace("_", "-") for text in requirements}


def test_wheel_has_version_and_requirements_of_the_project(dw: Installed) -> None:
    (folder,) = dw.packages.glob("diffusers_workbench-*.dist-info")
    found = PathDistribution(folder)
    assert found.version == __version__
    extra = "; extra == 'extras'"
    required = set(found.requires or ())
    always = {text for text in required if extra not in text}
    assert named(always) == named(pinned("requirements.txt"))
    optional = {text.removesuffix(extra) for text in required - always}
    assert named(optional) == named(pinned("requirements-extras.txt"))


def test_build_backend_is_pinned_to_one_version() -> None:
    (backend,) = re.findall(r'"(hatchling==[\d.]+)"', (PROJECT / "pyproject.toml").read_text())
    assert backend in pinned("requirements-dev.txt")


def test_installed_command_lists_shipped_and_own_workflows(dw: Installed) -> None:
    own = dw.data / "workflows"
    own.mkdir(parents=True)
    shutil.copy(PROJECT / "workflows" / "sd15.json", own / "mine.json")
    listed = json.loads(dw("workflows", "--json").stdout)
    shipped = {file.stem for file in (PROJECT / "workflows").glob("*.json")}
    assert {each["name"] for each in listed} == {*shipped, "mine"}
    ready = {each["name"] for each in listed if each["ready"]}
    assert ready >= {"text-to-image", "draw-then-outline", "variations", "inpaint"}


def test_installed_command_runs_and_writes_to_the_users_folder(dw: Installed) -> None:
    ran = dw("run", "text-to-image", "steps=1", "--device", "cpu")
    assert ran.returncode == 0, ran.stderr
    (file,) = map(Path, ran.stdout.splitlines())
    assert file.is_file()
    assert file.is_relative_to(dw.data / "outputs")
    assert not (dw.packages / "outputs").exists()


def test_installed_command_alone_is_the_prompt(dw: Installed) -> None:
    ended = dw(typed="load text-to-image\nexit\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "dw> load text-to-image\nLoading workflow: text-to-image\ndw> exit\n"


def test_installed_command_names_itself_in_its_help(dw: Installed) -> None:
    assert dw("--help").stdout.startswith("usage: dw [-h] [--version] COMMAND ...")
    assert dw("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("platform", "environment", "data"),
    [
        ("linux", {}, "/home/ada/.local/share/diffusers-workbench"),
        ("linux", {"XDG_DATA_HOME": "/srv/data"}, "/srv/data/diffusers-workbench"),
        ("linux", {"XDG_DATA_HOME": "data"}, "/home/ada/.local/share/diffusers-workbench"),
        ("darwin", {}, "/home/ada/Library/Application Support/diffusers-workbench"),
    ],
)
def test_installed_package_writes_to_the_users_data_folder(
    platform: str, environment: dict[str, str], data: str, tmp_path: Path
) -> None:
    (tmp_path / "app" / "bundled").mkdir(parents=True)
    found = places_of(tmp_path / "app", platform, environment, Path("/home/ada"))
    assert found == Places(tmp_path / "app" / "bundled", Path(data))


def test_checkout_keeps_everything_in_its_folder(tmp_path: Path) -> None:
    assert places_of(tmp_path / "app", "linux", {}, Path("/home/ada")) == (tmp_path, tmp_path)
