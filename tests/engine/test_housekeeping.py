"""The engine's clean-up of the outputs folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from app.engine import Engine
from app.engine.housekeeping import FRESH_S, Housekeeping
from app.engine.kept_inputs import FOLDER
from app.engine.store import Store
from app.outputs import OutputStore
from app.settings import SHIPPED_WORKFLOWS, PathSettings
from app.trimming import Needed
from tests.engine.bench import PATIENCE_S, Bench, Heard, serving
from tests.engine.test_store import a_run


def until(true: Callable[[], bool]) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)


# --- results from before the history -------------------------------------------------------------


def old_run(outputs: Path, run_id: str) -> Path:
    """Writes a run's folder as before the history existed; returns the record of its result."""
    folder = outputs / run_id
    folder.mkdir(parents=True)
    record = {
        "run_id": run_id, "seed": 2**70, "workflow": {"id": "Old"}, "step": "draw",
        "inputs": {"prompt": "an old fox"}, "created": "2025-01-01T00:00:00+0000",
    }  # fmt: skip
    for name in ("b.png", "a.png"):
        (folder / name).write_bytes(b"picture")
        (folder / f"{name}.json").write_text(json.dumps(record))
    (folder / "stray.json").write_text("[]")
    return folder / "a.png.json"


def listed(engine: Engine) -> list[str]:
    return [info.run_id for info in engine.runs(limit=1000)]


def test_results_older_than_the_history_are_added(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    ids = [f"20250101-000{number:03}-abcdef" for number in range(250)]
    for run_id in ids:
        old_run(tmp_path / "outputs", run_id)
    with serving(tmp_path, workflow, uploads, heard) as bench:
        new = bench.run("nothing").run_id
        until(lambda: len(listed(bench.engine)) == 251)
    with serving(tmp_path, workflow, uploads, heard) as bench:
        again = bench.run("nothing").run_id
        old = bench.finish(ids[0])
        found = [info.run_id for info in bench.engine.runs(words="fox", limit=1000)]
        order = listed(bench.engine)
        first = bench.engine.runs(words="fox")[0]
    assert order == [again, new, *reversed(ids)]
    assert [Path(result.path).name for result in old.results] == ["b.png", "a.png"]
    assert (old.results[0].seed, old.results[0].content_type) == (2**70, "image/png")
    assert found == list(reversed(ids))
    assert (first.title, first.state) == ("Old", "succeeded")


def test_runs_do_not_wait_for_adding_older_results(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    record = old_run(tmp_path / "outputs", "20250101-000000-abcdef")
    content = record.read_text()
    record.unlink()
    # Reading it lasts until the test writes it.
    os.mkfifo(record)
    with serving(tmp_path, workflow, uploads, heard) as bench:
        new = bench.run("nothing").run_id
        assert listed(bench.engine) == [new]
        record.write_text(content)
        until(lambda: listed(bench.engine) == [new, "20250101-000000-abcdef"])


# --- what leaves ---------------------------------------------------------------------------------


def kept_file(outputs: Path, number: int) -> Path:
    """Returns an old upload of 1,000 bytes, kept for a run."""
    file = outputs / FOLDER / f"{number:064x}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(1000))
    make_old(file)
    return file


def make_old(file: Path) -> None:
    then = time.time() - 2 * FRESH_S
    os.utime(file, (then, then))


def add_run(store: Store, run_id: str, picture: Path) -> None:
    store.add(a_run(run_id, inputs={"image": str(picture)}, plan=None)).result()


def test_upload_is_removed_with_the_last_run_that_uses_it(tmp_path: Path):
    red, blue = kept_file(tmp_path, 1), kept_file(tmp_path, 2)
    store = Store(tmp_path)
    runs = [f"20260101-00000{number}-abcdef" for number in range(3)]
    for run_id, picture in zip(runs, (red, blue, red), strict=True):
        add_run(store, run_id, picture)
        result = OutputStore(tmp_path).new_file(run_id, "a", ".png")
        result.write_bytes(bytes(10))

    def left_with_bound(max_bytes: int | None) -> tuple[set[str], set[Path]]:
        keeping = Housekeeping(OutputStore(tmp_path), store, max_bytes, Needed)
        keeping.trim()
        keeping.close()
        return store.run_ids(), set((tmp_path / FOLDER).iterdir())

    assert left_with_bound(None) == (set(runs), {red, blue})
    assert left_with_bound(2025) == (set(runs[1:]), {red, blue})
    assert left_with_bound(2000) == ({runs[2]}, {red})
    assert left_with_bound(0) == (set(), set())
    assert OutputStore(tmp_path).runs() == []
    store.close()


def test_run_without_results_is_removed_with_its_upload(tmp_path: Path):
    red = kept_file(tmp_path, 1)
    store = Store(tmp_path)
    add_run(store, "20260101-000000-abcdef", red)
    keeping = Housekeeping(OutputStore(tmp_path), store, 0, Needed)
    keeping.trim()
    keeping.close()
    assert not store.run_ids()
    assert not red.exists()
    store.close()


def test_old_unused_upload_is_removed(tmp_path: Path, workflow: Path, uploads: Path, heard: Heard):
    with serving(tmp_path, workflow, uploads, heard) as bench:
        file = kept_file(bench.outputs, 1)
        file.touch()
        (file.parent / "notes.txt").write_text("not ours")
        make_old(file.parent / "notes.txt")
        bench.engine.trim()
        assert file.exists(), "its run may come at any moment"
        make_old(file)
        bench.engine.trim()
        assert [each.name for each in file.parent.iterdir()] == ["notes.txt"]


def submit_with_upload(bench: Bench, uploads: Path) -> str:
    picture = uploads / "red.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    inputs = {"image": str(picture), "prompt": "nothing"}
    return bench.engine.submit(SHIPPED_WORKFLOWS / "variations.json", inputs)


def media(tmp_path: Path, uploads: Path, bound: int | None = None) -> PathSettings:
    outputs = tmp_path / "outputs"
    return PathSettings(outputs=outputs, media=(uploads, outputs), outputs_bytes=bound)


def test_upload_of_waiting_run_stays(tmp_path: Path, workflow: Path, uploads: Path, heard: Heard):
    paths = media(tmp_path, uploads, bound=0)
    with serving(tmp_path, workflow, uploads, heard, paths=paths) as bench:
        bench.underway(f"wait for {bench.gate()}")
        waiting = submit_with_upload(bench, uploads)
        (file,) = (bench.outputs / FOLDER).iterdir()
        make_old(file)
        bench.engine.trim()
        bench.gate().touch()
        assert bench.finish(waiting).success
        bench.engine.trim()
        assert not file.exists()


def test_uploads_are_not_kept_without_history(
    tmp_path: Path, workflow: Path, uploads: Path, heard: Heard
):
    options = {"keep_history": False, "paths": media(tmp_path, uploads)}
    with serving(tmp_path, workflow, uploads, heard, **options) as bench:
        assert bench.finish(submit_with_upload(bench, uploads)).success
        assert not (bench.outputs / FOLDER).exists()
