"""The folder, and a runner over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models_folder.drawing import KINDS, drawing, drawn
from tests.standins.webui import A1111, FILES, build_folder
from tests.worker.bench import Bench


@pytest.fixture(scope="package")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as A1111 lays it out. Read-only."""
    root = tmp_path_factory.mktemp("webui")
    build_folder(root)
    return root


@pytest.fixture(scope="package")
def bench(webui: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A runner over the folder."""
    bench = Bench(tmp_path_factory.mktemp("a1111"))
    bench.models = webui / "models"
    return bench


@pytest.fixture
def place(webui: Path) -> dict[str, Path]:
    """The files, by their bare names."""
    return {
        name.rpartition("/")[2]: webui / A1111[kind] / f"{name}.safetensors"
        for kind, names in FILES.items()
        for name in names
    }


@pytest.fixture(scope="package")
def plain(bench: Bench) -> dict[str, np.ndarray]:
    """The picture of each checkpoint alone."""
    return {name: drawn(bench, drawing(name)) for name in KINDS}
