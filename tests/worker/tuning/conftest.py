"""Models of random weights, read-only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.standins.flux import build_flux
from tests.standins.stable_diffusion import build_sdxl

Folders = pytest.TempPathFactory


def _built(folders: Folders, build: Callable[[Path], None], name: str) -> Path:
    folder = folders.mktemp("models") / name
    build(folder)
    return folder


@pytest.fixture(scope="session")
def sd(tiny: Path) -> Path:
    return tiny


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: Folders) -> Path:
    return _built(tmp_path_factory, build_sdxl, "sdxl")


@pytest.fixture(scope="session")
def flux(tmp_path_factory: Folders) -> Path:
    return _built(tmp_path_factory, build_flux, "flux")
