"""The history in SQLite: durability, search, damage."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.engine.store import FILE, FOLDER, Store
from app.engine.store_file import StoreError
from app.engine.store_rows import StoredRun
from app.errors import ErrorReport
from app.protocol import ResultSaved, RunFailed, RunSucceeded, Timings
from app.settings import PROJECT

ADD_UNTIL_KILLED = """
import sys
from pathlib import Path
from app.engine.store import Store
from tests.engine.test_store import a_run
store = Store(Path(sys.argv[1]))
for number in range(1000):
    store.add(a_run(f"run-{number}")).result()
    print(number, flush=True)
"""


def a_run(run_id: str = "run-1", **fields: Any) -> StoredRun:
    given: dict[str, Any] = {
        "owner": "me", "workflow": "text-to-image", "workflow_path": "workflows/text-to-image.json",
        "workflow_hash": "ab" * 32, "title": "Text to image",
        "inputs": {"prompt": "a red circle", "steps": 4}, "changes": {"/steps/0/name": "draw"},
        "seed": 7, "seed_given": True, "takes_seed": True, "fresh": False, "process": "1 1.0",
        "resumable": True, "submitted_at": time.time(),
        "plan": '{"steps": []}', **fields,
    }  # fmt: skip
    return StoredRun(run_id=run_id, **given)


def a_result(folder: Path, run_id: str = "run-1", name: str = "a.png") -> ResultSaved:
    path = folder / run_id / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")
    return ResultSaved(
        run_id=run_id, time=1.0, step="draw", path=str(path), sidecar=f"{path}.json",
        content_type="image/png", width=8, height=8, seed=7, index=0, final=True,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def test_added_run_reads_back_whole(store: Store):
    run = a_run()
    store.add(run).result()
    assert store.find("run-1") == run
    assert store.find("run-2") is None


@pytest.mark.parametrize("seed", [0, 2**53, 2**64 + 1, -5])
def test_seed_of_any_size_reads_back(store: Store, seed: int):
    store.add(a_run(seed=seed)).result()
    assert store.unfinished()[0].seed == seed


def test_every_added_run_survives_a_killed_process(tmp_path: Path):
    told = -1
    with subprocess.Popen(
        [sys.executable, "-c", ADD_UNTIL_KILLED, str(tmp_path)],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            told = int(line)
            if told == 50:
                process.send_signal(signal.SIGKILL)
    assert told >= 50
    store = Store(tmp_path)
    found = [run.run_id for run in store.unfinished()]
    store.close()
    assert found[: told + 1] == [f"run-{number}" for number in range(told + 1)]
    assert len(found) <= told + 2


def test_unfinished_runs_come_back_in_order_and_ended_ones_do_not(store: Store):
    for name in ("a", "b", "c", "d"):
        store.add(a_run(name)).result()
    store.note_started("a", 5.0)
    broken = RunFailed(
        run_id="b", time=6.0, error=ErrorReport(kind="LoadError", message="The model is broken.")
    )
    store.note_ended("b", broken)
    store.note_state("c", "preparing")
    store.flush()
    assert [(run.run_id, run.state, run.attempts) for run in store.unfinished()] == [
        ("a", "running", 1),
        ("c", "preparing", 0),
        ("d", "queued", 0),
    ]
    ended = store.find("b")
    assert ended is not None
    assert (ended.state, ended.ended_at, ended.terminal) == ("failed", 6.0, broken)
    assert ended.plan is None


def test_database_without_schema_yet_reads_as_empty(tmp_path: Path):
    store = Store(tmp_path, as_keeper=False)
    file = tmp_path / FOLDER / FILE
    file.parent.mkdir()
    creating = sqlite3.connect(file)
    creating.execute("PRAGMA journal_mode = WAL")
    assert store.find("run-1") is None
    creating.close()
    store.add(a_run()).result()
    assert store.find("run-1") is not None
    store.close()


def test_orderly_stop_counts_no_attempt(store: Store):
    store.add(a_run("a")).result()
    store.add(a_run("b")).result()
    store.note_started("a", 5.0)
    store.note_orderly_stop(["a", "b"])
    store.flush()
    assert [(run.state, run.attempts) for run in store.unfinished()] == [("queued", 0)] * 2


def test_results_follow_a_moved_folder(tmp_path: Path):
    before, after = tmp_path / "before", tmp_path / "after"
    store = Store(before)
    store.add(a_run()).result()
    results = [a_result(before), a_result(before, name="b.png")]
    succeeded = RunSucceeded(
        run_id="run-1", time=9.0, timings=Timings(total_s=2.0), loaded=("unet",)
    )
    store.note_ended("run-1", succeeded, results)
    store.flush()
    assert store.results("run-1") == results
    store.close()
    before.rename(after)
    store = Store(after)
    found = store.find("run-1")
    paths = [result.path for result in store.results("run-1")]
    store.close()
    assert found is not None
    assert (found.state, found.terminal) == ("succeeded", succeeded)
    assert paths == [str(after / "run-1" / name) for name in ("a.png", "b.png")]


def test_runs_are_listed_newest_first_in_pages_by_owner(store: Store):
    for number in range(6):
        store.add(a_run(f"run-{number}", owner="me" if number % 2 else "you")).result()
    assert [run.run_id for run in store.runs(limit=2)] == ["run-5", "run-4"]
    assert [run.run_id for run in store.runs(limit=2, before="run-4")] == ["run-3", "run-2"]
    assert [run.run_id for run in store.runs(owner="me")] == ["run-5", "run-3", "run-1"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("red", ["fox", "circle"]),
        ("red FO", ["fox"]),
        ("übung", ["german"]),
        ("ubung", ["german"]),
        ('"', []),
        ("red OR blue", []),
        ("text:red", []),
        ("猫", ["cat"]),
    ],
)
def test_search_finds_runs_by_the_words_of_their_texts(store: Store, words: str, found: list[str]):
    for name, text in (
        ("circle", "a red circle"), ("fox", "a fox in red"), ("german", "eine Übung"),
        ("cat", "猫 at sea"),
    ):  # fmt: skip
        store.add(a_run(name, inputs={"prompt": text, "steps": 3})).result()
    assert [run.run_id for run in store.runs(words=words)] == found


def test_forgotten_run_is_in_no_list(store: Store, tmp_path: Path):
    store.add(a_run()).result()
    succeeded = RunSucceeded(run_id="run-1", time=9.0, timings=Timings(total_s=2.0), loaded=())
    store.note_ended("run-1", succeeded, [a_result(tmp_path)])
    store.forget(["run-1"]).result()
    assert store.runs() == store.runs(words="red") == store.results("run-1") == []


def test_duplicate_id_is_refused_without_affecting_other_runs(store: Store):
    store.add(a_run()).result()
    with pytest.raises(StoreError, match="UNIQUE"):
        store.add(a_run()).result()
    store.add(a_run("run-2")).result()
    assert store.run_ids() == {"run-1", "run-2"}


def test_unwritable_text_does_not_affect_other_runs(store: Store):
    with pytest.raises(StoreError):
        store.add(a_run("bad", inputs={"prompt": "a\ud800"})).result()
    store.add(a_run("good")).result()
    assert [run.run_id for run in store.runs()] == ["good"]


def test_many_threads_may_add_and_read(store: Store):
    def add(thread: int) -> None:
        for number in range(20):
            store.add(a_run(f"{thread}-{number}")).result()
            assert store.find(f"{thread}-{number}") is not None

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.run_ids()) == 80


def test_only_the_first_process_is_keeper_and_the_second_adds_its_own_runs(tmp_path: Path):
    first, second = Store(tmp_path), Store(tmp_path)
    assert (first.is_keeper, second.is_keeper) == (True, False)
    first.add(a_run("a")).result()
    second.add(a_run("b")).result()
    assert [run.run_id for run in first.runs()] == [run.run_id for run in second.runs()]
    first.close()
    second.close()
    third = Store(tmp_path)
    assert third.is_keeper
    third.close()


@pytest.mark.parametrize("damage", ["garbage", "cut off", "middle"])
def test_damaged_history_is_put_aside_and_replaced(tmp_path: Path, damage: str):
    store = Store(tmp_path)
    for number in range(200):
        store.add(a_run(f"run-{number}")).result()
    store.close()
    file = tmp_path / FOLDER / FILE
    content = file.read_bytes()
    match damage:
        case "garbage":
            file.write_bytes(b"this is no database" * 500)
        case "cut off":
            file.write_bytes(content[: len(content) // 3])
        case "middle":
            file.write_bytes(content[:200] + os.urandom(len(content) - 200))
    store = Store(tmp_path)
    assert "was damaged" in store.notice
    store.add(a_run("new")).result()
    assert [run.run_id for run in store.runs()] == ["new"]
    store.close()
    assert list(file.parent.glob(f"{FILE}.damaged-*"))


def test_history_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path):
    store = Store(tmp_path)
    store.add(a_run()).result()
    store.close()
    db = sqlite3.connect(tmp_path / FOLDER / FILE)
    db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(StoreError, match="newer version"):
        Store(tmp_path)


def test_unusable_folder_is_a_sentence(tmp_path: Path):
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(StoreError, match="cannot be kept"):
        Store(tmp_path)


def test_without_history_nothing_is_written_and_everything_works(tmp_path: Path):
    store = Store(tmp_path, keep_history=False)
    store.add(a_run()).result()
    store.note_started("run-1", 5.0)
    assert [run.state for run in store.unfinished()] == ["running"]
    assert store.runs(words="circle")[0].run_id == "run-1"
    store.close()
    assert not list(tmp_path.iterdir())
