"""Components stay loaded: held by identity, loaded once, evicted only for a reason.

Real pipelines (tiny stand-ins) in a real runner, in this process, so that "the same module" can be
checked with `is`.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from app.dialect.fingerprint import tensor_bytes
from app.outputs import OutputStore
from app.planning.planner import make_plan
from app.protocol import Event, FreeMemory, Loading, ResultSaved, RunSucceeded, StartRun
from app.settings import PathSettings, WorkerSettings
from app.worker.device import Device
from app.worker.runner import Runner
from tests.standins import build_sd

COMPONENTS = {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
Document = dict[str, Any]


class Ran(NamedTuple):
    """One finished run: its loads, log lines and results."""

    loaded: tuple[str, ...]
    log: list[str]
    pictures: list[np.ndarray]


class Bench:
    """A runner, two models and the documents of a test."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.folder = folder
        self._caplog = caplog
        self._events: list[Event] = []
        self._numbers = itertools.count()
        settings = WorkerSettings(device="cpu", log_level="DEBUG")
        store = OutputStore(folder / "outputs")
        self.runner = Runner(settings, store, Device("cpu"), self._events.append)

    def write(self, name: str, document: Document, **json_style: Any) -> Path:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document, **json_style))
        return path

    def run(self, workflow: Path, seed: int = 7, **inputs: Any) -> Ran:
        plan = make_plan(workflow, inputs, paths=PathSettings(models=(self.folder,)), seed=seed)
        self._events.clear()
        self._caplog.clear()
        with self._caplog.at_level(logging.DEBUG, logger="app"):
            run_id = f"20260101-000000-{next(self._numbers):06x}"
            self.runner.run(StartRun(run_id=run_id, plan=plan, fresh=True))
        ended = next(e for e in self._events if isinstance(e, RunSucceeded))
        saved = [e for e in self._events if isinstance(e, ResultSaved)]
        return Ran(
            loaded=ended.loaded,
            log=[record.getMessage() for record in self._caplog.records],
            pictures=[np.asarray(Image.open(result.path)) for result in saved],
        )

    def free(self) -> None:
        self.runner.free(FreeMemory(request_id="free"))

    def held(self) -> dict[str, Any]:
        """The held objects by title."""
        return {entry.title: entry.component for entry in self.runner.residency.entries}

    @property
    def loadings(self) -> list[Loading]:
        """The load events of the last run."""
        return [event for event in self._events if isinstance(event, Loading)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of the same kind with different weights: `a` and `b`."""
    folder = tmp_path_factory.mktemp("models")
    build_sd(folder / "a", seed=0)
    build_sd(folder / "b", seed=1)
    return folder


@pytest.fixture
def bench(tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture) -> Bench:
    for model in models.iterdir():
        shutil.copytree(model, tmp_path / model.name)
    return Bench(tmp_path, caplog)


def step(name: str = "draw", model: str = "a", kind: str = "", **more: Any) -> Document:
    return {
        "name": name,
        "pipeline": {
            "configuration": {"component_type": f"StableDiffusion{kind}Pipeline"},
            "from_pretrained_arguments": {"model_name": model, "safety_checker": None},
            "arguments": {
                "prompt": "variable:prompt",
                "num_inference_steps": 2,
                **({} if kind else {"width": 32, "height": 32}),
                **more,
            },
        },
        "result": {"content_type": "image/png"},
    }


def document(*steps: Document, **variables: Any) -> Document:
    return {
        "id": "test",
        "variables": {"prompt": "a red circle", **variables},
        "steps": list(steps) or [step()],
    }


def test_step_is_loaded_once_and_reuses_same_modules(bench: Bench) -> None:
    workflow = bench.write("one", document())
    first = bench.run(workflow)
    modules = bench.held()
    second = bench.run(workflow)

    assert {title.partition(" ")[0] for title in first.loaded} >= COMPONENTS
    assert second.loaded == ()
    assert bench.loadings == []
    assert all(bench.held()[title] is module for title, module in modules.items())
    assert np.array_equal(first.pictures, second.pictures)


def test_log_has_fixed_lines_for_loading_and_reuse(bench: Bench) -> None:
    workflow = bench.write("one", document())
    first, second = bench.run(workflow), bench.run(workflow)

    assert f"Loading workflow from {workflow}" in first.log
    assert "Creating pipeline for step: draw" in first.log
    assert "Loading pipeline from model: a" in first.log
    assert "Loading unet from model: a" in first.log
    assert "Reusing loaded models from cache" not in first.log
    assert "Reusing cached pipeline for step: draw" in second.log
    assert second.log.count("Reusing loaded models from cache") == 1
    assert not any(line.startswith("Loading pipeline") for line in second.log)


def test_load_progress_adds_up_to_header_bytes(bench: Bench, models: Path) -> None:
    bench.run(bench.write("one", document()))
    used = [file for name in COMPONENTS for file in (models / "a" / name).glob("*.safetensors")]
    expected = sum(map(tensor_bytes, used))
    assert {event.total_bytes for event in bench.loadings} == {expected}
    done = [event.loaded_bytes for event in bench.loadings]
    assert done == sorted(done)
    assert done[-1] == expected


def test_two_models_are_loaded_once_and_not_mixed(
    bench: Bench,
) -> None:
    both = bench.write("both", document(step("first", "a"), step("second", "b")))
    alone = {name: bench.write(name, document(step("draw", name))) for name in ("a", "b")}
    expected = [Bench(bench.folder, bench._caplog).run(alone[name]).pictures for name in alone]

    first, second = bench.run(both), bench.run(both)
    assert [line for line in first.log if line.startswith("Loading pipeline")] == [
        "Loading pipeline from model: a",
        "Loading pipeline from model: b",
    ]
    assert second.loaded == ()
    for ran in (first, second):
        assert np.array_equal(ran.pictures[0], expected[0][0])
        assert np.array_equal(ran.pictures[1], expected[1][0])
        assert not np.array_equal(ran.pictures[0], ran.pictures[1])


def test_workflows_with_same_model_share_one_copy(bench: Bench) -> None:
    bench.run(bench.write("one", document()))
    held = bench.held()
    other = bench.run(bench.write("two", document(step("paint"))))
    assert other.loaded == ()
    assert bench.held() == held


def test_workflows_with_different_models_are_independent(bench: Bench) -> None:
    one = bench.write("one", document(step(model="a")))
    two = bench.write("two", document(step(model="b")))
    first = bench.run(one)
    bench.run(two)
    again = bench.run(one)
    assert again.loaded == ()
    assert np.array_equal(first.pictures, again.pictures)


def test_shipped_workflows_load_each_component_once(bench: Bench, tmp_path: Path) -> None:
    picture, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    Image.new("L", (32, 32), 255).save(mask)
    steps = [
        step(),
        step("vary", kind="Img2Img", image="picture.png", strength=1.0),
        step("fill", kind="Inpaint", image="picture.png", mask_image="mask.png", strength=1.0,
             width=32, height=32),
    ]  # fmt: skip
    loaded = [bench.run(bench.write(each["name"], document(each))).loaded for each in steps]
    assert {title.partition(" ")[0] for title in loaded[0]} >= COMPONENTS
    assert loaded[1:] == [(), ()]


def test_runs_with_other_inputs_load_nothing(bench: Bench) -> None:
    drawing = step(num_inference_steps="variable:steps", width="variable:width")
    workflow = bench.write("one", document(drawing, steps=2, width=32))
    bench.run(workflow)
    for number in range(10):
        ran = bench.run(
            workflow,
            seed=number,
            prompt=f"a blue star {number}",
            steps=1 + number % 3,
            width=32 + 8 * (number % 2),
        )
        assert ran.loaded == ()
        assert "Reusing loaded models from cache" in ran.log


def test_model_variable_selects_model_warm_and_cold(bench: Bench) -> None:
    workflow = bench.write("choose", document(step(model="variable:model"), model="a"))
    fixed = {name: bench.write(name, document(step(model=name))) for name in ("a", "b")}
    expected = {
        name: Bench(bench.folder, bench._caplog).run(path).pictures for name, path in fixed.items()
    }
    for name, loads in (("a", True), ("b", True), ("a", False), ("b", False)):
        ran = bench.run(workflow, model=name)
        assert bool(ran.loaded) == loads
        assert np.array_equal(ran.pictures, expected[name])


def test_dtype_variable_selects_dtype_warm_and_cold(bench: Bench) -> None:
    def drawing(dtype: str, /, **variables: str) -> Document:
        chosen = step()
        chosen["pipeline"]["from_pretrained_arguments"]["torch_dtype"] = dtype
        return document(chosen, **variables)

    workflow = bench.write("choose", drawing("variable:dtype", dtype="torch.float32"))
    dtypes = ("torch.float32", "torch.bfloat16")
    expected = {
        dtype: Bench(bench.folder, bench._caplog).run(bench.write("fixed", drawing(dtype))).pictures
        for dtype in dtypes
    }
    assert not np.array_equal(*expected.values())
    for dtype, loads in zip(dtypes * 2, (True, True, False, False), strict=True):
        ran = bench.run(workflow, dtype=dtype)
        assert bool(ran.loaded) == loads
        assert np.array_equal(ran.pictures, expected[dtype])


def test_changed_model_of_one_step_loads_only_that(bench: Bench) -> None:
    shutil.copytree(bench.folder / "b", bench.folder / "c")
    names = ("first", "second", "third")
    workflow = bench.write("three", document(*map(step, names, "aab")))
    bench.run(workflow)
    before = bench.held()
    bench.write("three", document(*map(step, names, "aac")))

    ran = bench.run(workflow)
    assert {title.split(" of ")[1].split(" ")[0] for title in ran.loaded} == {"c"}
    kept = {title: module for title, module in before.items() if " of a " in title}
    assert {title: bench.held()[title] for title in kept} == kept
    assert not any(" of b " in title for title in bench.held())


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"id": "test"', '"id": "test", "description": "told anew"'),
        lambda text: text.replace("a red circle", "a blue star"),
        lambda text: json.dumps(json.loads(text), indent=8),
        lambda text: text.replace('"draw"', '"sketch"'),
    ],
    ids=["description", "prompt's default", "whitespace", "step's name"],
)
def test_edit_without_model_change_loads_nothing(bench: Bench, edit: Callable[[str], str]) -> None:
    workflow = bench.write("one", document())
    bench.run(workflow)
    held = bench.held()
    before = workflow.read_text()
    workflow.write_text(edit(before))
    assert workflow.read_text() != before

    ran = bench.run(workflow)
    assert ran.loaded == ()
    assert "Workflow file changed - nothing to reload" in ran.log
    assert bench.held() == held


def test_changed_workflow_evicts_only_unused_components(
    bench: Bench,
) -> None:
    workflow = bench.write("two", document(step("first", "a"), step("second", "b")))
    bench.run(workflow)
    a_before = {title: module for title, module in bench.held().items() if " of a " in title}

    bench.write("two", document(step("first", "a")))
    ran = bench.run(workflow)
    assert "Workflow file changed - reloading models..." in ran.log
    assert ran.loaded == ()
    assert bench.held() == a_before


def test_changed_workflow_keeps_components_of_others(bench: Bench) -> None:
    changing = bench.write("changing", document(step(model="b")))
    bench.run(bench.write("other", document(step(model="b"))))
    bench.run(changing)
    bench.write("changing", document(step(model="a")))

    ran = bench.run(changing)
    assert "Workflow file changed - nothing to reload" in ran.log
    assert any(" of b " in title for title in bench.held())


def test_changed_sub_workflow_counts_as_change(bench: Bench) -> None:
    bench.write("child", document(step(model="b")))
    parent = bench.write("parent", document({"name": "call", "workflow": {"path": "child.json"}}))
    bench.run(parent)
    bench.write("child", document(step(model="a")))
    ran = bench.run(parent)
    assert "Workflow file changed - reloading models..." in ran.log
    assert not any(" of b " in title for title in bench.held())


def test_new_weights_in_same_folder_are_loaded(bench: Bench, tmp_path: Path) -> None:
    build_sd(tmp_path / "trained", seed=2)
    workflow = bench.write("one", document(step(model="trained")))
    first = bench.run(workflow)
    build_sd(tmp_path / "trained", seed=3)
    second = bench.run(workflow)
    assert any(title.startswith("unet") for title in second.loaded)
    assert not np.array_equal(first.pictures, second.pictures)


def test_free_evicts_all_and_next_run_loads_again(bench: Bench) -> None:
    workflow = bench.write("one", document())
    first = bench.run(workflow)
    bench.free()
    assert bench.held() == {}
    second = bench.run(workflow)
    assert second.loaded == first.loaded
    assert np.array_equal(first.pictures, second.pictures)
    assert bench.run(workflow).loaded == ()
