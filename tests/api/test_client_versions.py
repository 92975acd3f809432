"""Scripts with gradio_client: its pinned version, and one of the major version before."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.servers import Server

SCRIPT = Path(__file__).with_name("client_script.py")
OLDER = "1.13.*"


@pytest.fixture(scope="session")
def older_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a Python with gradio_client 1.13 in an environment of its own."""
    folder = tmp_path_factory.mktemp("older-client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--disable-pip-version-check", f"gradio_client=={OLDER}"]
    pip = [sys.executable, "-m", "pip", "--python", python, *install]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install gradio_client {OLDER}: {done.stderr.strip()[-200:]}")
    return python


@pytest.mark.parametrize("kind", ["pinned", "older"])
def test_script_works_with_each_version_of_the_client(
    server: Server, picture: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    python = sys.executable if kind == "pinned" else request.getfixturevalue("older_client")
    done = subprocess.run(
        [python, SCRIPT, server.url, picture, tmp_path / "results"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["version"].startswith(version("gradio_client") if kind == "pinned" else "1.13.")
    assert {"/generate", "/run_text_to_image", "/run_variations"} <= set(seen["endpoints"])
    assert seen["parameters"] == ["prompt", "pictures", "steps", "guidance_scale", "seed"]
    assert (seen["typed"]["event"], seen["typed"]["seed"]) == ("done", 7)
    assert (seen["events"][0], seen["events"][-1], seen["code"]) == ("queued", "done", "FINISHED")
    assert {"phase", "step", "result"} <= set(seen["events"])
    for told in (seen["typed"], seen["streamed"], seen["varied"]):
        with Image.open(told["images"][0]) as drawn:
            assert drawn.size == (128, 128)
        assert Path(told["images"][0]).is_relative_to(tmp_path / "results")
    assert json.loads(Path(seen["typed"]["metadata"][0]).read_text())["seed"] == 7
    assert seen["cancelled"] == [True, "cancelled"]
    assert seen["followed"] == "cancelled"
    assert "99 is outside 1 to 50" in seen["error"]
    assert seen["worker"] == "ready"
