"""Fixtures of the worker's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.standins import build_sd


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion of random weights, with a safety checker. Read-only."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_sd(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path, tiny: Path) -> Path:
    """A private model, in a folder named `model`."""
    return shutil.copytree(tiny, tmp_path / "model")
