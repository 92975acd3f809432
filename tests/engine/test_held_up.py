"""Non-blocking calls are answered while the engine's thread is blocked."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.protocol import RunCancelled
from tests.engine.bench import PATIENCE_S, Bench

LOGGER = "tests.stuck"


class StuckLog(logging.Handler):
    """Blocks on a line until released, as a terminal that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.has_line, self.go_on = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.has_line.set()
        self.go_on.wait()


@pytest.fixture
def stuck() -> Iterator[StuckLog]:
    log, handler = logging.getLogger(LOGGER), StuckLog()
    log.addHandler(handler)
    try:
        yield handler
    finally:
        handler.go_on.set()
        log.removeHandler(handler)


def first_event(bench: Bench, run_id: str) -> Any:
    async def first() -> Any:
        events = bench.engine.follow(run_id)
        try:
            return await anext(events)
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    return asyncio.run(first())


QUESTIONS: dict[str, Callable[[Bench, str], Any]] = {
    "status": lambda bench, _: bench.engine.status().running,
    "runs": lambda bench, _: bench.engine.runs(),
    "info": lambda bench, run_id: bench.engine.info(run_id),
    "follow": first_event,
    "cancel": lambda bench, run_id: bench.engine.cancel(run_id),
    "pin": lambda bench, _: bench.engine.pin("unet"),
    "drop": lambda bench, _: bench.engine.drop("unet"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_blocked_engine_does_not_block_callers(own: Bench, stuck: StuckLog, name: str):
    run_id = own.submit(f"log WARNING {LOGGER} a line", f"wait for {own.gate()}")
    assert stuck.has_line.wait(PATIENCE_S)
    with ThreadPoolExecutor() as pool:
        try:
            assert pool.submit(QUESTIONS[name], own, run_id).result(PATIENCE_S)
        finally:
            stuck.go_on.set()
    own.engine.cancel(run_id)
    assert isinstance(own.finish(run_id).terminal, RunCancelled)
