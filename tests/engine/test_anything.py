"""Any calls in any order: every run ends, every call is answered, and the engine goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from typing import Any

import pytest

from app.engine.loop import FreeMode
from app.errors import WorkbenchError, WorkerDied
from app.protocol import TERMINAL
from tests.engine.bench import Bench

OPERATIONS = 60
ANSWERED_S = 60.0
SCRIPTS = (
    ("nothing",), ("hold unet", "enter denoising", "hold vae"), ("fail no",), ("previews",),
    ("wait for nobody",), ("save a.png", "return 1"), ("gap 0.01",), ("when over gap 0.02",),
)  # fmt: skip
DEADLY = (
    ("kill",), ("exit 3",), ("babble", "wait for nobody"), ("ignore cancel", "wait for nobody"),
    ("stop",), ("when freed stop",), ("when pinned kill",), ("when cleaning stop",),
    ("when over stop",), ("when over exit 4",), ("flood",),
)  # fmt: skip
STRANGE: tuple[Any, ...] = ("\ud800", float("inf"), ["a" * 1000] * 300, {"a": [[[]]]}, None, 2**70)


class Anything:
    """One engine, and everything asked of it."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self._bench, self._engine, self._random = bench, bench.engine, random.Random(seed)
        self.runs: list[str] = []
        self.answers: list[asyncio.Future[Any]] = []
        self._deadly = 3

    def submit(self) -> None:
        scripts = SCRIPTS
        if self._deadly and self._random.random() < 0.2:
            self._deadly, scripts = self._deadly - 1, DEADLY
        self.runs.append(self._bench.submit(*self._random.choice(scripts)))

    def submit_strange(self) -> None:
        pointer = self._random.choice(["/seed", "/steps/0/pipeline/arguments/prompt", "/steps/7"])
        changes = {pointer: self._random.choice(STRANGE)}
        try:
            run_id = self._engine.submit(
                self._bench.workflow, {"prompt": "nothing"}, changes=changes
            )
        except WorkbenchError as refused:
            str(refused).encode()
        else:
            self.runs.append(run_id)

    def cancel(self) -> None:
        if self.runs:
            self._engine.cancel(self._random.choice(self.runs[-5:]))

    def free(self) -> None:
        modes: tuple[FreeMode, ...] = ("when_idle", "cancel_and_free")
        freeing = self._engine.free_async(self._random.choice(modes))
        self.answers.append(asyncio.ensure_future(freeing))

    def pin(self) -> None:
        pinned = self._engine.pin(self._random.choice(["unet", "none"]))
        self.answers.append(asyncio.wrap_future(pinned))

    def drop(self) -> None:
        self.answers.append(asyncio.wrap_future(self._engine.drop("vae")))

    def look(self) -> None:
        began_at = time.monotonic()
        status = self._engine.status()
        self._engine.runs("nobody")
        assert time.monotonic() - began_at < 1.0
        assert len(status.queue) <= len(self.runs)

    def stop_worker(self) -> None:
        slot = self._random.choice(self._engine.status().slots)
        if self._deadly and slot.pid is not None and slot.worker in ("ready", "busy"):
            self._deadly -= 1
            os.kill(slot.pid, self._random.choice([signal.SIGSTOP, signal.SIGKILL]))

    async def all_answered(self) -> None:
        """Cancels remaining runs, and waits for everything."""
        for run_id in self.runs:
            self._engine.cancel(run_id)
        await asyncio.wait_for(asyncio.gather(*map(self._end_of, self.runs)), ANSWERED_S)
        for answer in self.answers:
            with contextlib.suppress(WorkerDied):
                await asyncio.wait_for(answer, ANSWERED_S)

    async def _end_of(self, run_id: str) -> None:
        events = [event async for event in self._engine.follow(run_id)]
        assert isinstance(events[-1], TERMINAL)
        assert sum(isinstance(event, TERMINAL) for event in events) == 1


@pytest.mark.parametrize(("seed", "devices"), [(0, ("cpu",)), (1, ("cpu",)), (2, ("cpu", "cpu"))])
async def test_engine_answers_any_sequence_of_calls(
    unstarted: Bench, seed: int, devices: tuple[str, ...]
):
    bench = unstarted.start(
        devices=devices,
        cancel_grace_s=0.2, cancel_grace_limit_s=0.4, command_limit_s=0.5, cleanup_limit_s=0.5,
        idle_cleanup_s=0.05, idle_drop_s=0.2,
    )  # fmt: skip
    anything, chance = Anything(bench, seed), random.Random(seed)
    operations = [
        anything.submit, anything.submit, anything.submit, anything.submit_strange,
        anything.cancel, anything.cancel, anything.free, anything.pin, anything.drop,
        anything.look, anything.look, anything.stop_worker,
    ]  # fmt: skip
    for _ in range(OPERATIONS):
        chance.choice(operations)()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.1)
    await anything.all_answered()
    ended = await asyncio.to_thread(bench.run)
    assert ended.success
