"""Where the shipped files are and where results go: in a checkout, and in an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

NAME = "diffusers-workbench"


class Places(NamedTuple):
    """Folders of one installation."""

    shipped: Path
    """Has `workflows/`, `models/` and the lists of requirements; only read."""
    data: Path
    """Has `outputs/`, and `workflows/` and `models/` of the user."""


def places_of(package: Path, platform: str, environment: Mapping[str, str], home: Path) -> Places:
    """Returns the folders for a package `app/` at this place, on `sys.platform`.

    A wheel has its shipped files within the package (pyproject.toml); a checkout is both folders.
    """
    bundled = package / "bundled"
    if not bundled.is_dir():
        return Places(package.parent, package.parent)
    return Places(bundled, _data_folder(platform, environment, home))


def _data_folder(platform: str, environment: Mapping[str, str], home: Path) -> Path:
    base = Path(environment.get("XDG_DATA_HOME", ""))
    # A relative path is invalid by the XDG specification.
    if not base.is_absolute():
        of_mac = home / "Library" / "Application Support"
        base = of_mac if platform == "darwin" else home / ".local" / "share"
    return base / NAME
