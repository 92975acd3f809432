"""Followers of a run: from any event on, any number, with and without previews."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from app.errors import UnknownRun
from app.protocol import (
    PhaseChanged,
    Preview,
    RunEvent,
    RunQueued,
    RunStarted,
    RunSucceeded,
    StartRun,
    WatchPreviews,
)
from tests.engine.bench import Bench

WHOLE = ["run_queued", "run_started", "phase_changed", "phase_changed", "run_succeeded"]


def kinds(events: list[RunEvent]) -> list[str]:
    return [event.type for event in events]


async def collect(following: AsyncIterator[RunEvent]) -> list[RunEvent]:
    return [event async for event in following]


def read_until(events: Iterator[RunEvent], kind: type[RunEvent]) -> RunEvent:
    return next(event for event in events if isinstance(event, kind))


async def test_late_follower_gets_all_events(bench: Bench):
    run_id = bench.run("enter loading", "enter denoising").run_id
    assert kinds(await collect(bench.engine.follow(run_id))) == WHOLE


async def test_follower_during_run_gets_past_and_new_events(bench: Bench):
    gate = bench.gate()
    run_id = bench.submit("enter loading", f"wait for {gate}", "enter denoising")
    bench.until(run_id, PhaseChanged)
    events = []
    async for event in bench.engine.follow(run_id):
        events.append(event)
        if isinstance(event, PhaseChanged):
            gate.touch()
    assert kinds(events) == WHOLE


def test_log_has_the_events_so_far(bench: Bench):
    gate = bench.gate()
    run_id = bench.submit("enter loading", f"wait for {gate}", "enter denoising")
    bench.until(run_id, PhaseChanged)
    assert kinds([*bench.engine.log(run_id)]) == WHOLE[:3]
    gate.touch()
    bench.until(run_id, RunSucceeded)
    assert kinds([*bench.engine.log(run_id)]) == WHOLE
    with pytest.raises(UnknownRun):
        bench.engine.log("20260101-000000-abcdef")


@pytest.mark.parametrize("start", [0, 1, 4])
async def test_follower_with_start_gets_later_events(bench: Bench, start: int):
    run_id = bench.run("enter loading", "enter denoising").run_id
    assert kinds(await collect(bench.engine.follow(run_id, start=start))) == WHOLE[start:]


async def test_follower_after_last_event_ends(bench: Bench):
    run_id = bench.run("enter loading", "enter denoising").run_id
    assert await collect(bench.engine.follow(run_id, start=len(WHOLE))) == []


async def test_unknown_run_cannot_be_followed(bench: Bench):
    with pytest.raises(UnknownRun):
        await collect(bench.engine.follow("20260101-000000-abcdef"))


async def test_every_follower_gets_all_events(bench: Bench):
    gate = bench.gate()
    run_id = bench.submit(f"wait for {gate}", "enter loading", "enter denoising")
    joined = asyncio.Barrier(3)

    async def follow() -> list[RunEvent]:
        events = []
        async for event in bench.engine.follow(run_id):
            events.append(event)
            if isinstance(event, RunStarted):
                await joined.wait()
        return events

    async def let_go() -> None:
        await joined.wait()
        gate.touch()

    one, other, _ = await asyncio.gather(follow(), follow(), let_go())
    assert kinds(one) == WHOLE
    assert other == one


async def test_follow_and_events_yield_the_same(bench: Bench):
    run_id = bench.submit("enter loading", "enter denoising")
    in_thread = asyncio.to_thread(bench.finish, run_id)
    followed, finished = await asyncio.gather(collect(bench.engine.follow(run_id)), in_thread)
    assert tuple(followed) == finished.events


async def test_leaving_follower_does_not_stop_run(bench: Bench):
    gate = bench.gate()
    run_id = bench.submit("enter loading", f"wait for {gate}", "enter denoising")
    async with contextlib.aclosing(bench.engine.follow(run_id)) as following:
        async for event in following:
            if isinstance(event, PhaseChanged):
                break
    gate.touch()
    assert bench.finish(run_id).success
    assert "cancel_run" not in bench.heard.kinds


def test_follower_with_closed_event_loop_does_not_stop_run(bench: Bench):
    gate = bench.gate()
    run_id = bench.underway(f"wait for {gate}", "enter loading")
    loop = asyncio.new_event_loop()
    following = bench.engine.follow(run_id)
    loop.run_until_complete(anext(following))
    loop.close()
    gate.touch()
    assert bench.finish(run_id).success


# --- previews ------------------------------------------------------------------------------------


def test_preview_goes_only_to_followers_that_want_it(bench: Bench):
    gate = bench.gate()
    run_id = bench.submit("watch", "preview x", "enter loading", f"wait for {gate}")
    watching = bench.engine.events(run_id, previews=True)
    preview = read_until(watching, Preview)
    assert preview.jpeg == b"x"
    other = bench.engine.events(run_id)
    read_until(other, PhaseChanged)
    gate.touch()
    assert kinds(list(other)) == ["run_succeeded"]


def test_slow_follower_gets_newest_preview_only(bench: Bench):
    gate, other = bench.gate(), bench.gate("other")
    run_id = bench.submit(
        f"wait for {gate}", "preview 1", "preview 2", "preview 3", "enter denoising",
        f"wait for {other}",
    )  # fmt: skip
    slow = bench.engine.events(run_id, previews=True)
    read_until(slow, RunStarted)
    gate.touch()
    bench.until(run_id, PhaseChanged)
    assert isinstance(next(slow), PhaseChanged)
    assert next(slow).jpeg == b"3"
    other.touch()
    assert kinds(list(slow)) == ["run_succeeded"]


def test_late_follower_gets_newest_preview(bench: Bench):
    gate = bench.gate()
    run_id = bench.submit("preview 1", "preview 2", "enter denoising", f"wait for {gate}")
    bench.until(run_id, PhaseChanged)
    late = bench.engine.events(run_id, previews=True)
    assert read_until(late, Preview).jpeg == b"2"
    gate.touch()


async def test_ended_run_is_replayed_without_previews(bench: Bench):
    run_id = bench.run("preview 1").run_id
    events = await collect(bench.engine.follow(run_id, previews=True))
    assert kinds(events) == ["run_queued", "run_started", "run_succeeded"]


def test_worker_is_told_when_previews_are_wanted(bench: Bench):
    gate = bench.gate()
    run_id = bench.underway(f"wait for {gate}", "enter loading")
    first = bench.engine.events(run_id, previews=True)
    second = bench.engine.events(run_id, previews=True)
    blind = bench.engine.events(run_id)
    for following in (blind, first, second):
        next(following)
    for following in (first, blind, second):
        following.close()
    gate.touch()
    bench.finish(run_id)
    assert bench.heard.commands[1:] == [
        WatchPreviews(run_id=run_id, watched=True),
        WatchPreviews(run_id=run_id, watched=False),
    ]


def test_watched_run_starts_with_previews(bench: Bench):
    gate = bench.gate()
    bench.underway(f"wait for {gate}")
    run_id = bench.submit("watch", "preview x")
    watching = bench.engine.events(run_id, previews=True)
    assert isinstance(next(watching), RunQueued)
    gate.touch()
    assert isinstance(list(watching)[-1], RunSucceeded)
    starts = [command for command in bench.heard.commands if isinstance(command, StartRun)]
    assert [start.previews for start in starts] == [False, True]
    assert "watch_previews" not in bench.heard.kinds


def test_following_inactive_run_sends_nothing_to_worker(bench: Bench):
    over = bench.run().run_id
    gate = bench.gate()
    running = bench.underway(f"wait for {gate}")
    waiting = bench.submit()
    for run_id in (over, waiting):
        following = bench.engine.events(run_id, previews=True)
        next(following)
        following.close()
    gate.touch()
    bench.finish(running)
    bench.finish(waiting)
    assert bench.heard.kinds == ["start_run"] * 3
