"""Hub models are downloaded while their run waits: beside other runs, once for all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from app.engine import Engine
from app.protocol import (
    Downloading,
    PhaseChanged,
    RunCancelled,
    RunFailed,
    RunQueued,
    RunStarted,
    StartRun,
)
from app.shell import terminal
from tests.doubles.scripted_worker import scripted_worker
from tests.engine.bench import PATIENCE_S, Bench, Heard, settings
from tests.hub import Hub

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
FILE_BYTES = 300_000


class Far(NamedTuple):
    """An engine with a scripted worker, and a hub with its workflow's model."""

    bench: Bench
    hub: Hub
    home: Path
    """Folder for fetched files."""
    near: Path
    """A workflow whose model is on this machine."""

    def weights(self, model: str = "big") -> set[str]:
        """Returns the complete weight files of a hub model on this machine."""
        snapshots = self.home / "hub" / f"models--test--{model}" / "snapshots"
        found = (path for path in snapshots.rglob("*.safetensors") if path.is_file())
        return {"/".join(path.parts[-2:]) for path in found}

    def gets(self, path: str) -> int:
        """Returns the number of requests for this file's content."""
        asked = (request.split(" ", 1) for request in self.hub.requests)
        return sum(method == "GET" and address.endswith(path) for method, address in asked)

    def hold(self) -> None:
        """Holds back half of the denoiser until `hub.go_on` is set."""
        self.hub.held = UNET
        self.hub.go_on.clear()

    def half_is_here(self, run_id: str) -> Downloading:
        """Waits until half of the denoiser and all other files have arrived."""
        for event in self.bench.engine.events(run_id):
            if (
                isinstance(event, Downloading)
                and event.total_bytes - event.done_bytes <= FILE_BYTES // 2
            ):
                return event
        raise AssertionError("The run is over.")


def model(folder: Path, shapes: Path) -> Path:
    """A model whose weights nobody reads."""
    index = json.loads((shapes / "model_index.json").read_text())
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in (UNET, VAE, "text_encoder/model.safetensors", "other.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode().ljust(FILE_BYTES, b"."))
    return folder


@pytest.fixture
def far(
    workflow: Path,
    tmp_path: Path,
    heard: Heard,
    shapes_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Far]:
    hub = Hub(tmp_path / "hub")
    for name in ("big", "second", "third"):
        model(tmp_path / "hub" / "test" / name, shapes_model)
    hub.only(monkeypatch, tmp_path / "home")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    engine = Engine(scripted_worker)
    bench = Bench(engine, of_model(workflow, tmp_path, "big"), outputs, tmp_path, heard)
    engine.start(settings(outputs))
    try:
        yield Far(bench, hub, tmp_path / "home", workflow)
    finally:
        hub.go_on.set()
        engine.close()
        hub.close()


def of_model(workflow: Path, folder: Path, name: str) -> Path:
    """Returns the workflow with a hub model."""
    document = json.loads(workflow.read_text())
    document["steps"][0]["pipeline"]["from_pretrained_arguments"]["model_name"] = f"test/{name}"
    file = folder / f"{name}.json"
    file.write_text(json.dumps(document))
    return file


def test_model_is_downloaded_before_the_run_starts(far: Far):
    finished = far.bench.run("save a.png", seed=7)
    assert finished.success
    kinds = [type(event) for event in finished.events]
    assert kinds[:2] == [RunQueued, PhaseChanged]
    assert kinds.index(Downloading) < kinds.index(RunStarted)
    assert far.weights() == {UNET, VAE, "text_encoder/model.safetensors"}
    last = [event for event in finished.events if isinstance(event, Downloading)][-1]
    assert (last.model, last.done_bytes, last.total_bytes) == (
        "test/big", 3 * FILE_BYTES, 3 * FILE_BYTES,
    )  # fmt: skip
    asked = len(far.hub.requests)
    again = far.bench.run("save a.png", seed=8)
    assert Downloading not in [type(event) for event in again.events]
    assert len(far.hub.requests) == asked


def test_download_blocks_no_other_run_and_cancels_at_once(far: Far):
    far.hold()
    waiting = far.bench.submit("nothing")
    far.half_is_here(waiting)
    (info,) = far.bench.engine.status().queue
    assert (info.run_id, info.state, info.phase) == (waiting, "preparing", "preparing")
    assert terminal.status(far.bench.engine.status()).endswith("waiting  1 (1 preparing)")
    for number in range(10):
        run_id = far.bench.engine.submit(far.near, {"prompt": "nothing"}, seed=number, fresh=True)
        assert far.bench.finish(run_id).success
    assert far.bench.engine.free().dropped == ()
    assert far.bench.engine.cancel(waiting)
    # Its file never arrives, so the end of the download cannot end the run.
    ended = far.bench.finish(waiting).terminal
    assert isinstance(ended, RunCancelled)
    assert ended.phase == "preparing"
    assert waiting not in far.bench.sent


def test_runs_share_a_download_and_cancel_leaves_it_to_the_other(far: Far):
    far.hold()
    first, second = far.bench.submit("nothing", seed=1), far.bench.submit("nothing", seed=2)
    far.half_is_here(first)
    far.half_is_here(second)
    far.bench.engine.cancel(first)
    assert isinstance(far.bench.finish(first).terminal, RunCancelled)
    far.hub.go_on.set()
    assert far.bench.finish(second).success
    assert far.gets(UNET) == far.gets(VAE) == 1


def test_cancelled_download_resumes(far: Far):
    far.hold()
    first = far.bench.submit("nothing")
    far.half_is_here(first)
    far.bench.engine.cancel(first)
    assert isinstance(far.bench.finish(first).terminal, RunCancelled)
    # The first connection ends in the middle.
    far.hub.held_breaks_off, far.hub.held = True, ""
    far.hub.go_on.set()
    assert far.bench.run("nothing").success
    assert far.hub.asked_from[UNET] == FILE_BYTES // 2


def test_next_server_resumes_download(far: Far, heard: Heard, tmp_path: Path):
    engine = Engine(scripted_worker)
    uploads, outputs = tmp_path / "uploads", tmp_path / "served"
    uploads.mkdir()
    far.hold()
    engine.start(settings(outputs), uploads=uploads)
    run_id = engine.submit(far.bench.workflow, {"prompt": "nothing"})
    served = Bench(engine, far.bench.workflow, outputs, tmp_path, heard)
    far._replace(bench=served).half_is_here(run_id)
    engine.close()
    far.hub.held_breaks_off, far.hub.held = True, ""
    far.hub.go_on.set()
    again = Engine(scripted_worker)
    again.start(settings(outputs), uploads=uploads)
    try:
        assert Bench(again, served.workflow, outputs, tmp_path, heard).finish(run_id).success
        assert far.hub.asked_from[UNET] == FILE_BYTES // 2
    finally:
        again.close()


def test_preparing_runs_are_limited(far: Far, heard: Heard, tmp_path: Path):
    engine, outputs = Engine(scripted_worker), tmp_path / "bounded"
    bench = Bench(engine, far.bench.workflow, outputs, tmp_path, heard)
    outputs.mkdir()
    engine.start(settings(outputs, max_preparing_runs=1))
    try:
        far.hold()
        first = bench.submit("nothing", seed=1)
        far._replace(bench=bench).half_is_here(first)
        other = of_model(far.near, tmp_path, "second")
        second = engine.submit(other, {"prompt": "nothing"})
        here = engine.submit(far.near, {"prompt": "nothing"})
        assert bench.finish(here).success
        states = {info.run_id: info.state for info in engine.status().queue}
        assert states == {first: "preparing", second: "queued"}
        engine.cancel(first)
        far.hub.go_on.set()
        assert bench.finish(second).success
    finally:
        engine.close()


def test_files_missing_in_worker_are_downloaded_and_run_restarts(far: Far, tmp_path: Path):
    finished = far.bench.run(f"once {tmp_path / 'told'} miss test/third other.safetensors", seed=7)
    assert finished.success
    begun = [event for event in finished.events if isinstance(event, RunStarted)]
    assert len(begun) == 2
    assert far.bench.sent == [finished.run_id] * 2
    folder = far.home / "hub" / "models--test--third" / "snapshots"
    assert [path.name for path in folder.rglob("*.safetensors")] == ["other.safetensors"]
    assert far.bench.engine.runs()[0].state == "succeeded"


def test_files_missing_in_worker_twice_fail_the_run(far: Far):
    ended = far.bench.run("miss test/third other.safetensors").terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.message == (
        "The files of 'test/third' are gone after their download: the worker does not find"
        " 'other.safetensors'."
    )
    assert len(far.bench.sent) == 2


def test_run_cancelled_while_files_are_missing_ends(far: Far, tmp_path: Path):
    gate = far.bench.gate()
    run_id = far.bench.underway(
        "ignore cancel", f"wait for {gate}", "miss test/third other.safetensors"
    )
    far.bench.engine.cancel(run_id)
    until = time.monotonic() + PATIENCE_S
    while "cancel_run" not in far.bench.heard.kinds and time.monotonic() < until:
        time.sleep(0.01)
    gate.touch()
    assert isinstance(far.bench.finish(run_id).terminal, RunCancelled)
    assert far.bench.sent == [run_id]


def test_first_failed_file_ends_run_while_others_download(far: Far):
    far.hold()
    far.hub.gated = "test/big"
    ended = far.bench.run("nothing").terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.kind == "LoadError"
    assert "to those only who may use it" in ended.error.message
    assert far.bench.sent == []


def test_damaged_file_ends_run_while_another_downloads(far: Far):
    far.hold()
    far.hub.damaged = VAE
    with ThreadPoolExecutor() as pool:
        going = pool.submit(far.bench.run, "nothing")
        try:
            ended = going.result(PATIENCE_S).terminal
        finally:
            far.hub.go_on.set()
    assert isinstance(ended, RunFailed)
    assert ended.error.message.endswith("a file of it arrived damaged.")
    assert far.gets(UNET) == 1


def test_disk_space_check_counts_other_downloads(far: Far, tmp_path: Path):
    far.hold()
    far.hub.claimed_bytes[UNET] = shutil.disk_usage(tmp_path).free * 6 // 10
    first = far.bench.submit("nothing")
    far.bench.until(first, Downloading)
    second = far.bench.engine.submit(of_model(far.near, tmp_path, "second"), {"prompt": "nothing"})
    ended = far.bench.finish(second).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.message.endswith("free beside the downloads under way.")
    assert far.bench.engine.cancel(first)


def test_worker_gets_no_hub_token(far: Far, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_the_operator")
    assert far.bench.run("nothing").success
    commands = [each for each in far.bench.heard.commands if isinstance(each, StartRun)]
    assert "hf_token" not in "".join(each.model_dump_json() for each in commands)
