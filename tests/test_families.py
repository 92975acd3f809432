"""Every shipped workflow runs on the classes of its model, cold and warm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from app.engine import Engine
from app.outputs import OutputStore
from app.planning.planner import make_plan
from app.protocol import (
    Event,
    Loading,
    PhaseChanged,
    ResultSaved,
    RunCancelled,
    RunSucceeded,
    StartRun,
    StepProgress,
)
from app.settings import PathSettings, WorkerSettings
from app.worker.device import Device
from app.worker.runner import Runner
from tests.corpus.shipped import NEEDS_PACKAGE, SHIPPED
from tests.engines import run, started_engine
from tests.standins import STANDINS

STEPS, WIDTH, HEIGHT, FRAMES = 2, 320, 256, 5
"""About the least the workflows' limits allow; width and height differ."""
FILMS = {"wan21-t2v"}
RUN_IDS = [f"20260101-000000-{number:06x}" for number in range(2)]

StandIn = Callable[[str], Path]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory, shipped_workflows: Path) -> StandIn:
    """Copies a shipped workflow and names its model's stand-in."""

    def make(stem: str) -> Path:
        folder = tmp_path_factory.mktemp(stem)
        STANDINS[stem](folder / "model")
        document = json.loads((shipped_workflows / f"{stem}.json").read_text())
        for block in loading_blocks(document):
            block["model_name"] = str(folder / "model")
        copy = folder / f"{stem}.json"
        copy.write_text(json.dumps(document))
        return copy

    return make


@pytest.fixture(scope="module", params=STANDINS)
def workflow(request: pytest.FixtureRequest, stand_in: StandIn) -> Path:
    """Each workflow that names a hub model, with its stand-in."""
    return stand_in(request.param)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with started_engine(tmp_path_factory.mktemp("outputs")) as started:
        yield started


def loading_blocks(tree: Any) -> list[dict[str, Any]]:
    """Yields every object of a document that names a model."""
    if isinstance(tree, list):
        return [block for item in tree for block in loading_blocks(item)]
    if not isinstance(tree, dict):
        return []
    here = [tree] if "model_name" in tree else []
    return here + loading_blocks(list(tree.values()))


def small(workflow: Path) -> dict[str, int]:
    """Returns inputs for a quick run."""
    wanted = {"steps": STEPS, "width": WIDTH, "height": HEIGHT, "frames": FRAMES}
    variables = json.loads(workflow.read_text())["variables"]
    return {name: value for name, value in wanted.items() if name in variables}


def pixels(result: ResultSaved) -> np.ndarray:
    """Returns a result file's content: (frames, height, width, 3)."""
    if result.content_type == "video/mp4":
        with av.open(result.path) as video:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    with Image.open(result.path) as picture:
        return np.asarray(picture)[None]


def test_hub_workflows_have_stand_ins(shipped_workflows: Path):
    named = {
        path.stem: [block["model_name"] for block in loading_blocks(json.loads(path.read_text()))]
        for path in shipped_workflows.glob("*.json")
    }
    of_the_hub = {stem for stem, names in named.items() if not names or names[0][0] != "."}
    assert of_the_hub == SHIPPED.keys() | NEEDS_PACKAGE >= STANDINS.keys()


def test_family_draws_requested_size_equal_warm_and_cold(engine: Engine, workflow: Path):
    inputs = small(workflow)
    cold = run(engine, workflow, inputs)
    assert cold.success.loaded
    (result,) = cold.results
    drawn = pixels(result)
    assert drawn.shape == (inputs.get("frames", 1), HEIGHT, WIDTH, 3)
    assert (result.width, result.height) == (WIDTH, HEIGHT)
    assert drawn.std() > 1, "the picture is blank"

    warm = run(engine, workflow, inputs)
    assert warm.success.loaded == ()
    np.testing.assert_array_equal(pixels(warm.results[0]), drawn)

    other = run(engine, workflow, inputs, seed=4)
    assert other.success.loaded == ()
    assert (pixels(other.results[0]) != drawn).any(), "the seed changes nothing"


@pytest.mark.parametrize("stem", ["sd15", "sdxl", "sdxl-turbo"])
def test_weights_in_the_prompt_are_read_if_switched_on(
    engine: Engine, stand_in: StandIn, stem: str
):
    workflow = stand_in(stem)

    def drawn(prompt: str, *, weighting: bool) -> np.ndarray:
        inputs = {**small(workflow), "prompt": prompt, "weighting": weighting}
        return pixels(run(engine, workflow, inputs).results[0])

    plain = drawn("a red star", weighting=False)
    np.testing.assert_array_equal(drawn("a (red:1.0) star", weighting=True), plain)
    np.testing.assert_array_equal(drawn("a [red|red] star", weighting=True), plain)
    assert (drawn("a (red:1.8) star", weighting=True) != plain).any()
    assert (drawn("a (red:1.0) star", weighting=False) != plain).any()


def test_family_reports_phases_steps_and_bytes(engine: Engine, workflow: Path):
    engine.free()
    finished = run(engine, workflow, small(workflow))
    phases = [event.phase for event in finished.events if isinstance(event, PhaseChanged)]
    assert phases == ["loading", "encoding", "denoising", "decoding", "saving"]
    steps = [event for event in finished.events if isinstance(event, StepProgress)]
    assert [event.done for event in steps] == list(range(1, steps[-1].total + 1))
    assert steps[-1].total >= STEPS
    loads = [event for event in finished.events if isinstance(event, Loading)]
    assert loads[0].loaded_bytes == 0
    assert 0 < loads[-1].loaded_bytes == loads[-1].total_bytes


@pytest.mark.parametrize("workflow", [s for s in STANDINS if s not in FILMS], indirect=True)
def test_family_draws_several_images_at_once(engine: Engine, workflow: Path):
    results = run(engine, workflow, {**small(workflow), "pictures": 2}).results
    assert [result.index for result in results] == [0, 1]
    first, second = map(pixels, results)
    assert (first != second).any()


# --- in this process, where a test can act in the midst of a run ---------------------------------

# Deprecation warnings of libraries do not stop a worker; pytest would.
in_this_process = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:diffusers", "ignore::FutureWarning:diffusers"
)


def in_process(outputs: Path, emit: Callable[[Event], None]) -> Runner:
    settings = WorkerSettings(device="cpu")
    return Runner(settings, OutputStore(outputs), Device(settings.device), emit)


def start(workflow: Path, run_id: str) -> StartRun:
    plan = make_plan(workflow, small(workflow), paths=PathSettings(), seed=3)
    return StartRun(run_id=run_id, plan=plan, previews=True, fresh=True)


@in_this_process
@pytest.mark.parametrize("phase", ["encoding", "denoising", "decoding"])
def test_family_cancelled_in_any_phase_keeps_components_intact(
    phase: str, stand_in: StandIn, tmp_path: Path
):
    """SDXL, since it casts its autoencoder to float32 while it decodes."""
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, PhaseChanged) and (event.run_id, event.phase) == (RUN_IDS[0], phase):
            runner.signals.cancelled.add(event.run_id)

    runner = in_process(tmp_path, emit)
    workflow = stand_in("sdxl")
    for run_id in RUN_IDS:
        runner.run(start(workflow, run_id))
    cancelled, succeeded = (e for e in events if isinstance(e, RunCancelled | RunSucceeded))
    assert isinstance(cancelled, RunCancelled)
    assert cancelled.phase == phase
    assert isinstance(succeeded, RunSucceeded)
    assert succeeded.loaded == ()
