"""Fixtures of the workflow tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.bench import Bench, safetensors


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def component(tmp_path: Path) -> Path:
    """Returns the folder of a component with configuration and weights."""
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    safetensors(folder / "diffusion_pytorch_model.safetensors", a=10, b=6)
    return folder
