"""A cancel takes effect in every phase in the real worker, and does not affect the next run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from app.engine import Engine
from app.protocol import Loading, PhaseChanged, RunCancelled, RunEvent
from tests.engines import Finished, run, started_engine
from tests.worker.bench import SHAPES, Bench, Document, document, same, step

COPIES = 3
"""Models of the long run beside the bundled one, so that loading takes a while too."""


class Workflows(NamedTuple):
    """A run that is long in every phase, and a short one with the same classes and models."""

    long: Path
    short: Path


@pytest.fixture(scope="module")
def workflows(tmp_path_factory: pytest.TempPathFactory) -> Workflows:
    folder = tmp_path_factory.mktemp("workflows")
    models = [SHAPES, *(shutil.copytree(SHAPES, folder / f"m{n}") for n in range(COPIES))]
    Image.new("RGB", (512, 512), "red").save(folder / "large.png")
    Image.new("RGB", (64, 64), "blue").save(folder / "small.png")
    bench = Bench(folder)

    def vary(picture: str) -> Document:
        return document(
            *(
                step(
                    f"vary_{number}",
                    model=model,
                    kind="Img2Img",
                    image=picture,
                    strength=0.5,
                )
                for number, model in enumerate(models)
            )
        )

    return Workflows(
        long=bench.write(vary("large.png"), "long"),
        short=bench.write(vary("small.png"), "short"),
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with started_engine(tmp_path_factory.mktemp("outputs")) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(engine: Engine, workflows: Workflows) -> Finished:
    """The short run, before any cancel."""
    return run(engine, workflows.short)


def cancelled_when(engine: Engine, workflow: Path, seen: Callable[[RunEvent], bool]) -> Finished:
    """Returns a run that is cancelled at the first such event."""
    run_id = engine.submit(workflow, {}, seed=5, fresh=True)
    events: list[RunEvent] = []
    asked = False
    for event in engine.events(run_id):
        events.append(event)
        if not asked and seen(event):
            asked = engine.cancel(run_id)
    assert asked, "the run was over before it could be cancelled"
    return Finished(run_id, tuple(events))


def in_phase(phase: str) -> Callable[[RunEvent], bool]:
    return lambda event: isinstance(event, PhaseChanged) and event.phase == phase


def held(engine: Engine) -> set[str]:
    """Returns titles of held components, as reported after the last run."""
    return {component.title for component in engine.status().held}


@pytest.mark.parametrize("phase", ["encoding", "denoising", "decoding"])
def test_cancel_in_any_phase_ends_run_and_keeps_worker_state(
    phase: str, engine: Engine, workflows: Workflows, undisturbed: Finished
):
    pid = engine.status().pid
    finished = cancelled_when(engine, workflows.long, in_phase(phase))
    assert isinstance(finished.terminal, RunCancelled)
    assert (finished.terminal.phase, finished.terminal.notice) == (phase, "")
    assert finished.results == ()

    after = run(engine, workflows.short)
    assert engine.status().pid == pid
    assert after.success.loaded == ()
    assert same(after, undisturbed)


def test_cancel_while_loading_keeps_loaded_components(
    engine: Engine, workflows: Workflows, undisturbed: Finished
):
    pid = engine.status().pid
    engine.free()
    finished = cancelled_when(
        engine,
        workflows.long,
        lambda event: isinstance(event, Loading) and event.loaded_bytes > 0,
    )
    assert isinstance(finished.terminal, RunCancelled)
    assert finished.terminal.phase == "loading"

    after = run(engine, workflows.short)
    assert engine.status().pid == pid
    loaded_then = [event for event in finished.events if isinstance(event, Loading)]
    assert 0 < len(after.success.loaded) < len(undisturbed.success.loaded)
    # Every component is reported once before and once after its load.
    assert len(after.success.loaded) + len(loaded_then) // 2 == len(undisturbed.success.loaded)
    assert held(engine) == set(undisturbed.success.loaded)
    assert same(after, undisturbed)


def test_cancel_at_start_of_loading_ends_run(
    engine: Engine, workflows: Workflows, undisturbed: Finished
):
    engine.free()
    ended = cancelled_when(engine, workflows.long, in_phase("loading")).terminal
    assert isinstance(ended, RunCancelled)
    assert same(run(engine, workflows.short), undisturbed)


def test_cancel_keeps_results_of_earlier_steps(
    engine: Engine, workflows: Workflows, undisturbed: Finished
):
    finished = cancelled_when(
        engine,
        workflows.long,
        lambda event: isinstance(event, PhaseChanged) and event.step == "vary_1",
    )
    assert isinstance(finished.terminal, RunCancelled)
    assert {result.step for result in finished.results} == {"vary_0"}
    assert all(Path(result.path).is_file() for result in finished.results)
    assert Path(finished.results[0].sidecar).is_file()


def test_repeated_cancels_leave_worker_usable(
    engine: Engine, workflows: Workflows, undisturbed: Finished
):
    pid = engine.status().pid
    for phase in ("denoising", "encoding", "encoding", "denoising"):
        ended = cancelled_when(engine, workflows.long, in_phase(phase)).terminal
        assert isinstance(ended, RunCancelled)
    assert same(run(engine, workflows.short), undisturbed)
    assert engine.status().pid == pid
