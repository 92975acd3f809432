"""A run on a terminal: Ctrl-C cancels it at any time."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from app.engine import Engine
from app.protocol import Loading, RunStarted
from app.run_view import RunView
from app.shell.terminal import run_to_end
from app.signals import first_ctrl_c
from tests.engines import started_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with started_engine(tmp_path_factory.mktemp("outputs")) as engine:
        yield engine


@pytest.fixture(autouse=True)
def sigint_is_heard() -> Iterator[None]:
    """Makes SIGINT work: tests may run where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def submit(engine: Engine, workflows: Path) -> str:
    """Submits a run that takes minutes unless it is cancelled."""
    steps = {"/steps/0/pipeline/arguments/num_inference_steps": 1000}
    return engine.submit(workflows / "text-to-image.json", {}, seed=3, changes=steps, fresh=True)


def shown(engine: Engine, submit: object) -> RunView:
    return run_to_end(engine, submit, Console(file=io.StringIO()))


@pytest.mark.parametrize("when", ["before it is submitted", "before its id is known", "under way"])
def test_ctrl_c_cancels_run_at_any_time(when: str, engine: Engine, shipped_workflows: Path) -> None:
    def submitted() -> str:
        if when == "before it is submitted":
            signal.raise_signal(signal.SIGINT)
        run_id = submit(engine, shipped_workflows)
        started = next(e for e in engine.events(run_id) if isinstance(e, RunStarted | Loading))
        assert started.run_id == run_id
        if when == "before its id is known":
            signal.raise_signal(signal.SIGINT)
        if when == "under way":
            signal.setitimer(signal.ITIMER_REAL, 0.3)
        return run_id

    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        assert shown(engine, submitted).outcome == "cancelled"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_second_ctrl_c_leaves_at_once(engine: Engine, shipped_workflows: Path) -> None:
    def submitted() -> str:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return submit(engine, shipped_workflows)

    with pytest.raises(KeyboardInterrupt):
        shown(engine, submitted)


def test_ctrl_c_handler_is_restored(engine: Engine, shipped_workflows: Path) -> None:
    def submitted() -> str:
        return engine.submit(shipped_workflows / "text-to-image.json", {"steps": 1}, seed=3)

    assert shown(engine, submitted).outcome == "succeeded"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nested_blocks_share_one_ctrl_c() -> None:
    with first_ctrl_c() as around:
        with first_ctrl_c() as inside:
            signal.raise_signal(signal.SIGINT)
        with first_ctrl_c() as later:
            pass
    assert (around.came, inside.came, later.came) == (True, True, True)
