"""Which files a bounded folder loses: the oldest, never needed or used ones."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.api.upload_folder import FRESH_S, STALE_S, UploadFolder
from app.janitor import trim, trimming
from app.outputs import OutputStore
from app.trimming import Item, Needed, choose_removals
from app.unfinished import private_folder

DAY = 24 * 3600.0
ITEMS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.booleans()), max_size=30)


@given(ITEMS, st.integers(0, 500), st.integers(0, 30))
def test_rest_is_within_bounds_unless_needed(
    found: list[tuple[int, int, bool]], max_bytes: int, max_count: int
):
    items = [Item(Path(str(i)), size, used) for i, (size, used, _) in enumerate(found)]
    needed = {each.path for each, (*_, kept) in zip(items, found, strict=True) if kept}
    leaving = choose_removals(
        items, max_bytes=max_bytes, max_count=max_count, needed=needed, fresh_since=90
    )
    staying = [each for each in items if each not in leaving]
    fixed = [each for each in items if each.path in needed or each.used_at >= 90]
    assert not {each.path for each in leaving} & {each.path for each in fixed}
    within = sum(each.size_bytes for each in staying) <= max_bytes and len(staying) <= max_count
    assert within or staying == fixed
    if leaving:
        newest = max(each.used_at for each in leaving)
        free = [each for each in staying if each not in fixed]
        assert all(each.used_at >= newest for each in free), "the oldest leave first"


def test_stale_files_are_removed_despite_room():
    items = [Item(Path("old"), 1, 10.0), Item(Path("new"), 1, 20.0)]
    leaving = choose_removals(items, max_bytes=None, fresh_since=30.0, stale_before=15.0)
    assert [each.path.name for each in leaving] == ["old"]


# --- results -------------------------------------------------------------------------------------


def some_runs(outputs: Path, count: int) -> list[Path]:
    """Returns folders of runs with a result of 1,000 bytes each, the oldest first."""
    store = OutputStore(outputs)
    folders = []
    for number in range(count):
        file = store.new_file(f"2026010{number}-000000-aaaaaa", "a", ".png")
        file.write_bytes(bytes(1000))
        folders.append(file.parent)
    (outputs / ".remembered").mkdir()
    (outputs / "notes").mkdir()
    return folders


def test_results_stay_without_a_bound(tmp_path: Path):
    folders = some_runs(tmp_path, 3)
    assert trim(tmp_path, None) == []
    assert all(folder.is_dir() for folder in folders)


def test_oldest_runs_are_removed_first(tmp_path: Path):
    folders = some_runs(tmp_path, 4)
    assert trim(tmp_path, 2500) == folders[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".remembered", "notes", *(folder.name for folder in folders[2:])]
    )


def test_needed_runs_are_kept(tmp_path: Path):
    folders = some_runs(tmp_path, 5)
    needed = Needed(frozenset({folders[0].name}), frozenset({folders[1] / "a.png"}))
    with private_folder(folders[2]):
        assert trim(tmp_path, 0, needed) == folders[3:]
    assert trim(tmp_path, 0, needed) == [folders[2]]


# --- uploads -------------------------------------------------------------------------------------


def upload(folder: Path, name: str, size: int, age_s: float) -> Path:
    file = folder / f"{name}-hash" / f"{name}.png"
    file.parent.mkdir()
    file.write_bytes(bytes(size))
    then = file.stat().st_mtime - age_s
    os.utime(file, (then, then))
    return file


def test_old_and_excess_uploads_are_removed_unless_needed(tmp_path: Path):
    stale = upload(tmp_path, "stale", 1, STALE_S + 60)
    waiting = upload(tmp_path, "waiting", 50, STALE_S + 60)
    older, old = (
        upload(tmp_path, "older", 50, 3 * FRESH_S),
        upload(tmp_path, "old", 50, 2 * FRESH_S),
    )
    fresh = upload(tmp_path, "fresh", 50, 60)
    uploads = UploadFolder(tmp_path, 170, lambda: {waiting})
    assert set(uploads.trim()) == {stale, older}
    assert not stale.parent.exists()
    assert all(file.is_file() for file in (waiting, old, fresh))
    assert uploads.trim() == []


def test_stale_upload_is_removed_despite_room(tmp_path: Path):
    stale, old = upload(tmp_path, "stale", 1, STALE_S + 60), upload(tmp_path, "old", 1, 2 * FRESH_S)
    assert UploadFolder(tmp_path, 1_000_000, set).trim() == [stale]
    assert old.is_file()


def test_incoming_bytes_are_counted_until_full(tmp_path: Path):
    uploads = UploadFolder(tmp_path, 100, set)
    assert [uploads.take(40) for _ in range(3)] == [True, True, False]
    uploads.trim()  # they were never written
    assert uploads.take(100)


def test_tasks_continue_after_failure():
    called = threading.Event()

    def fails() -> list[int]:
        raise OSError("no such disk")

    def works() -> list[int]:
        called.set()
        return []

    with trimming(fails, works, every_s=0.001):
        assert called.wait(60)
        called.clear()
        assert called.wait(60)
