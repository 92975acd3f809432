"""Leftovers of killed processes are removed, and nothing else: real processes, killed midway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.janitor import NEW_FOLDER_S, clean, clean_run
from app.outputs import OutputStore, replacing, sidecar_of
from app.protocol import RunFailed
from app.settings import PROJECT, WorkerSettings
from app.unfinished import PART, PRIVATE, private_folder
from app.worker.loading.converted import ConvertedWeights
from tests.engines import Finished, started_engine
from tests.media.films import film

RUN = "20260101-000000-abcdef"
WITHIN_S = 60.0


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A private folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    (folder / RUN).mkdir(parents=True)
    (folder / ".remembered").mkdir()
    return folder


def until(what: Callable[[], object]) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


HOLDING = """
import sys, tempfile
from contextlib import ExitStack
from pathlib import Path
from app.outputs import OutputStore, replacing
from app.unfinished import PRIVATE, private_folder
from app.worker.loading.converted import ConvertedWeights

outputs = Path(sys.argv[1])
with ExitStack() as held:
    for name in ("page-", "headers-"):
        folder = held.enter_context(private_folder(Path(tempfile.gettempdir()), PRIVATE + name))
        (folder / "upload.png").write_bytes(b"x")
    held.enter_context(replacing(outputs / ".remembered" / "a.json")).write(b"half")
    making = held.enter_context(private_folder(outputs / "20260101-000000-abcdef"))
    held.enter_context(replacing(making / "a.png")).write(b"half")
    weights = ConvertedWeights(outputs / ".weights", 10**9)
    (held.enter_context(weights.writing("key", "unet")) / "half.safetensors").write_bytes(b"x")
    print("held", flush=True)
    sys.stdin.read()
"""
"""A process that holds one of everything, until it is killed."""


@pytest.fixture
def holder(temporary: Path, outputs: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(outputs)], cwd=PROJECT, text=True,
        env={**os.environ, "TMPDIR": str(temporary)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_files_of_living_process_stay_and_of_killed_one_are_removed(
    temporary: Path, outputs: Path, holder: subprocess.Popen[str]
):
    kept = outputs / RUN / "kept.png"
    kept.write_bytes(b"a picture without a record")
    (temporary / f"{PRIVATE}mine").mkdir()
    (temporary / "other").mkdir()
    held = [*files(temporary), *files(outputs)]
    assert len(held) == 10
    assert clean(outputs) == []
    assert [*files(temporary), *files(outputs)] == held
    holder.kill()
    holder.wait()
    assert len(clean(outputs)) == 5
    assert [*files(temporary), *files(outputs)] == [f"{RUN}/kept.png"]
    assert sorted(path.name for path in temporary.iterdir()) == ["other", f"{PRIVATE}mine"]
    assert clean(outputs) == []


def test_completed_write_leaves_no_part_files(temporary: Path, outputs: Path):
    with private_folder(temporary, PRIVATE) as folder:
        (folder / "a").touch()
        assert folder.stat().st_mode & 0o777 == 0o700
    with replacing(outputs / "a.json") as file:
        file.write(b"{}")
    with ConvertedWeights(outputs / ".weights", 10**9).writing("key", "unet") as folder:
        (folder / "a").touch()
    assert files(temporary) == []
    assert files(outputs) == [".weights/key/a", ".weights/key/component.json", "a.json"]


def test_link_to_another_folder_is_not_followed(temporary: Path, outputs: Path):
    others = temporary / "others"
    others.mkdir()
    (others / ".lock").touch()
    (temporary / f"{PRIVATE}page-1").symlink_to(others)
    assert clean(outputs) == []
    assert (others / ".lock").exists()


def test_record_without_result_is_removed(temporary: Path, outputs: Path):
    store, folder = OutputStore(outputs), outputs / RUN
    for name in ("a.png", "b.png", "data.json"):
        store.write_sidecar(folder / name, {"run_id": RUN})
    (folder / "a.png").touch()
    (folder / "data.json").write_text('{"run_id": "20260101-000000-abcdef1"}')
    (folder / "notes.png.json").write_text('{"mine": 1}')
    with private_folder(folder):
        assert clean_run(folder) == []
    assert clean_run(folder) == [folder / "b.png.json"]
    assert files(folder) == ["a.png", "a.png.json", "data.json", "data.json.json", "notes.png.json"]


def test_empty_run_folder_is_removed(temporary: Path, outputs: Path):
    clean(outputs)
    assert (outputs / RUN).exists(), "its run may just have begun"
    then = time.time() - 2 * NEW_FOLDER_S
    os.utime(outputs / RUN, (then, then))
    clean(outputs)
    assert not (outputs / RUN).exists()


# --- the real worker -----------------------------------------------------------------------------


def test_worker_killed_while_saving_leaves_only_whole_results(tmp_path: Path, temporary: Path):
    """Killed as soon as it has begun to write the second of two videos."""
    outputs = tmp_path / "outputs"
    film(tmp_path / "film.mp4", side=512)
    saving = {"result": {"content_type": "video/mp4"}}
    gather = {"command": "gather_videos", "arguments": {"glob": "film.mp4"}}
    longer = {"command": "concat_videos",
              "arguments": {"videos": ["previous_result:read"] * 60}}  # fmt: skip
    workflow = tmp_path / "flow.json"
    steps = [{"name": "read", "task": gather, **saving}, {"name": "join", "task": longer, **saving}]
    workflow.write_text(json.dumps({"id": "flow", "steps": steps}))
    with started_engine(outputs, WorkerSettings(device="cpu")) as engine:
        run_id = engine.submit(workflow, {}, seed=1)
        folder = outputs / run_id
        until(lambda: list(folder.glob("*.mp4")) and len(list(folder.glob(f"{PART}*"))) > 1)
        pid = engine.status().pid
        assert pid is not None
        os.kill(pid, 9)
        finished = Finished(run_id, tuple(engine.events(run_id)))
        assert isinstance(finished.terminal, RunFailed), finished.terminal
        (first,) = finished.results
        assert list(folder.glob(f"{PART}*"))
    with started_engine(outputs, WorkerSettings(device="cpu")):
        until(lambda: not list(folder.glob(f"{PART}*")))
    assert files(folder) == sorted([Path(first.path).name, sidecar_of(Path(first.path)).name])
