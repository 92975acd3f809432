"""A killed server loses nothing that was asked for; `python -m tests.killing` kills 50 times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.killing import kill_once


@pytest.mark.parametrize("phase", ["queued", "denoising"])
def test_runs_of_a_killed_server_finish_after_its_restart(tmp_path: Path, phase: str):
    assert kill_once(tmp_path, phase) == []
