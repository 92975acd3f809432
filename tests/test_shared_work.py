"""Work with several waiters is done once, and stopped when the last has left."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import wait

import pytest

from app.errors import Cancelled
from app.shared_work import Share, SharedWork

PATIENCE_S = 10.0


def test_work_is_done_once_for_all_that_join_it():
    shared, go_on, done = SharedWork(), threading.Event(), []

    def work(share: Share[str]) -> str:
        go_on.wait(PATIENCE_S)
        done.append(share.key)
        return "done"

    first, second = shared.join("a", work), shared.join("a", work)
    go_on.set()
    assert first.result.result(PATIENCE_S) == second.result.result(PATIENCE_S) == "done"
    assert done == ["a"]
    assert shared.join("a", work).result.result(PATIENCE_S) == "done"
    assert done == ["a", "a"]


def test_results_come_a_few_at_a_time_with_progress_to_the_end():
    shared, seen = SharedWork(), []

    def work(share: Share[str]) -> str:
        share.done_bytes = 10
        return str(share.key)

    def progress(shares: Sequence[Share[str]]) -> None:
        seen.append((len(shares), sum(each.done_bytes for each in shares)))

    found = shared.results(
        dict.fromkeys("abc", work), stopped=lambda: False, progress=progress, at_a_time=2
    )
    assert sorted(found) == ["a", "b", "c"]
    assert (seen[0][0], seen[-1]) == (2, (3, 30))


def test_stopped_results_leave_the_work_and_the_first_error_leaves_the_rest():
    shared, ended = SharedWork(), threading.Event()

    def goes_on(share: Share[str]) -> str:
        try:
            while True:
                share.pause(0.01)
        finally:
            ended.set()

    def fails(_share: Share[str]) -> str:
        raise ValueError("no")

    with pytest.raises(Cancelled):
        shared.results({"a": goes_on}, stopped=lambda: True)
    assert ended.wait(PATIENCE_S)
    ended.clear()
    with pytest.raises(ValueError, match="no"):
        shared.results({"a": goes_on, "b": fails}, stopped=lambda: False, at_a_time=2)
    assert ended.wait(PATIENCE_S)


def test_work_stops_when_last_waiter_leaves():
    shared, looked = SharedWork(), threading.Event()

    def work(share: Share[None]) -> None:
        while True:
            looked.set()
            share.pause(0.01)

    first, second = shared.join("a", work), shared.join("a", work)
    shared.leave(first)
    looked.clear()
    assert looked.wait(PATIENCE_S)
    assert not second.result.done()
    shared.leave(second)
    with pytest.raises(Cancelled):
        second.result.result(PATIENCE_S)


def test_joining_stopping_work_continues_it():
    shared, unwanted, joined = SharedWork(), threading.Event(), threading.Event()

    def work(share: Share[str]) -> str:
        if not joined.is_set():
            while not share.is_unwanted:
                share_waits.wait(0.01)
            unwanted.set()
            joined.wait(PATIENCE_S)
            raise Cancelled
        return "done"

    share_waits = threading.Event()
    shared.leave(shared.join("a", work))
    assert unwanted.wait(PATIENCE_S)
    later = shared.join("a", work)
    joined.set()
    assert later.result.result(PATIENCE_S) == "done"


def test_exception_of_work_reaches_all_and_bytes_are_counted():
    shared, go_on = SharedWork(), threading.Event()

    def work(share: Share[None]) -> None:
        share.total_bytes, share.done_bytes = 10, 4
        told.set()
        go_on.wait(PATIENCE_S)
        raise OSError("the disk is full")

    told = threading.Event()
    shares = [shared.join("a", work) for _ in range(2)]
    assert told.wait(PATIENCE_S)
    assert (shared.left_bytes(), shared.left_bytes(but=["a"])) == (6, 0)
    go_on.set()
    wait([share.result for share in shares], PATIENCE_S)
    for share in shares:
        with pytest.raises(OSError, match="full"):
            share.result.result()
