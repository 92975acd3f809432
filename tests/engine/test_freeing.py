"""Freeing memory: between runs, before waiting ones, never during one."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import WorkerDied
from app.protocol import MemoryFreed, RunCancelled, RunFailed
from tests.engine.bench import Bench


def titles(freed: MemoryFreed) -> list[str]:
    return [part.title for part in freed.dropped]


def test_idle_worker_frees_at_once_and_reports(bench: Bench):
    bench.run("hold unet", "hold vae")
    freed = bench.engine.free()
    assert titles(freed) == ["unet", "vae"]
    assert freed.before.device_bytes > freed.after.device_bytes == 0
    bench.run()
    status = bench.engine.status()
    assert (status.worker, status.memory, status.held) == ("ready", freed.after, ())


async def test_free_async_can_be_awaited(bench: Bench):
    await asyncio.to_thread(bench.run, "hold unet")
    assert titles(await bench.engine.free_async()) == ["unet"]


def test_free_happens_after_active_and_before_waiting_runs(bench: Bench):
    gate = bench.gate()
    running = bench.underway("hold unet", f"wait for {gate}")
    waiting = bench.submit("hold vae")
    with ThreadPoolExecutor() as pool:
        freed = pool.submit(bench.engine.free)
        gate.touch()
        assert titles(freed.result()) == ["unet"]
    assert bench.finish(running).success
    assert bench.finish(waiting).success
    assert bench.heard.kinds == ["start_run", "free_memory", "start_run"]


def test_cancel_and_free_ends_active_run_first(bench: Bench):
    running = bench.underway("hold unet", f"wait for {bench.gate()}")
    waiting = bench.submit()
    assert titles(bench.engine.free("cancel_and_free")) == ["unet"]
    assert isinstance(bench.finish(running).terminal, RunCancelled)
    assert bench.finish(waiting).success
    assert bench.heard.kinds == ["start_run", "cancel_run", "free_memory", "start_run"]


def test_cancel_and_free_when_idle_is_free(bench: Bench):
    bench.run("hold unet")
    assert titles(bench.engine.free("cancel_and_free")) == ["unet"]
    assert bench.heard.kinds == ["start_run", "free_memory"]


def test_free_works_after_a_failed_run(bench: Bench):
    assert isinstance(bench.run("hold unet", "fail out of paint").terminal, RunFailed)
    assert titles(bench.engine.free()) == ["unet"]
    assert bench.run().success


def test_concurrent_free_requests_share_one_command(bench: Bench):
    gate = bench.gate()
    bench.run(f"when freed wait for {gate}", "hold unet")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(bench.engine.free)]
        bench.heard.wait_until(lambda: "free_memory" in bench.heard.kinds)
        asked += [pool.submit(bench.engine.free) for _ in range(3)]
        gate.touch()
        first, *others = (answer.result() for answer in asked)
    assert titles(first) == ["unet"]
    assert [titles(freed) for freed in others] == [[], [], []]


def test_worker_is_busy_while_freeing(bench: Bench):
    gate = bench.gate()
    bench.run(f"when freed wait for {gate}")
    with ThreadPoolExecutor() as pool:
        freed = pool.submit(bench.engine.free)
        bench.heard.wait_until(lambda: "free_memory" in bench.heard.kinds)
        waiting = bench.submit()
        status = bench.engine.status()
        assert (status.worker, status.running) == ("busy", None)
        assert [run.run_id for run in status.queue] == [waiting]
        gate.touch()
        freed.result()
    assert bench.finish(waiting).success


def test_free_fails_if_worker_ends(bench: Bench):
    bench.run("when freed exit 4")
    with pytest.raises(WorkerDied, match=r"exit code 4.*Its memory came back with it"):
        bench.engine.free()
    assert bench.run().success
    assert titles(bench.engine.free()) == []
