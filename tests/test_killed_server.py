"""A killed server loses no run; `python -m tests.killing` kills 50 times."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from app.settings import SHIPPED_WORKFLOWS
from tests.hub import Hub
from tests.killing import PATIENCE_S, RUN_ID, Asking, kill_once
from tests.servers import started_server

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("phase", ["queued", "denoising"])
def test_runs_of_a_killed_server_finish_after_its_restart(tmp_path: Path, phase: str):
    assert kill_once(tmp_path, phase) == []


def test_download_of_a_killed_server_goes_on_after_its_restart(
    tmp_path: Path, shapes_model: Path, monkeypatch: pytest.MonkeyPatch
):
    """The waiting run finishes, and downloaded parts are not fetched again."""
    shutil.copytree(shapes_model, tmp_path / "hub" / "test" / "far")
    hub = Hub(tmp_path / "hub")
    hub.only(monkeypatch, tmp_path / "home")
    hub.held = UNET
    with started_server(tmp_path) as server:
        document = json.loads((SHIPPED_WORKFLOWS / "text-to-image.json").read_text())
        loading = {"model_name": "test/far"}
        document["steps"][0]["pipeline"]["from_pretrained_arguments"] = loading
        (server.workflows / "far.json").write_text(json.dumps(document))
        asking = Asking(server)
        asking.ask("far", {"prompt": "a red circle", "steps": 1})
        asking.wait_until(lambda: UNET in hub.asked_from and '"downloading"' in asking.told)
        wait_for_half(tmp_path / "home", (shapes_model / UNET).stat().st_size // 2)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        asking.join()
    hub.held_breaks_off, hub.held = True, ""
    hub.go_on.set()
    (run_id,) = set(RUN_ID.findall(asking.told))
    with started_server(tmp_path) as server:
        followed = Asking(server)
        followed.follow(run_id)
        followed.wait_until(lambda: '"done"' in followed.told)
    assert hub.asked_from[UNET] == (shapes_model / UNET).stat().st_size // 2
    hub.close()


def wait_for_half(home: Path, half_bytes: int) -> None:
    """Waits until so many bytes of a download are on disk."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        parts = (home / "hub").rglob("*.incomplete")
        if any(part.stat().st_size == half_bytes for part in parts):
            return
        time.sleep(0.02)
    raise AssertionError("Half of the file has not come.")
