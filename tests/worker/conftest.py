"""What tests of the worker's rooms share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.standins import build_sd


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion of random weights, with a safety checker. Not to be written to."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_sd(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path, tiny: Path) -> Path:
    """A model of the test's own, in a folder named `model`."""
    return shutil.copytree(tiny, tmp_path / "model")
