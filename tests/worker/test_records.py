"""Every result carries how it was made."""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import pytest

from app import __version__
from app.outputs import RECORD_KEY
from app.protocol import ResultSaved
from tests.engines import Finished
from tests.results.files import read_record
from tests.worker.bench import Bench, document, pixels, step

KINDS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
PROMPT = "ein roter Kreis – 赤い円 🔴"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def workflow(bench: Bench) -> Path:
    """Draws two pictures in each format; what a person may choose has defaults."""
    arguments = {
        "prompt": "variable:prompt",
        "num_inference_steps": "variable:steps",
        "num_images_per_prompt": 2,
    }
    steps = [
        step(f"step_{number}", saved_as=kind, **arguments) for number, kind in enumerate(KINDS)
    ]
    variables = {"prompt": "a red circle", "steps": 3}
    return bench.write(document(*steps, id="records", variables=variables))


@pytest.fixture(scope="module")
def finished(bench: Bench, workflow: Path) -> Finished:
    bench.run(workflow)
    return bench.run(bench.plan(workflow, seed=11, prompt=PROMPT))


@pytest.fixture(params=KINDS)
def results(request: pytest.FixtureRequest, finished: Finished) -> list[ResultSaved]:
    """The two results of one format."""
    return [result for result in finished.results if result.content_type == request.param]


def record_of(result: ResultSaved) -> dict[str, Any]:
    record = read_record(Path(result.path))
    assert record is not None
    return record


def test_the_picture_says_how_it_was_made(
    results: list[ResultSaved], finished: Finished, workflow: Path
):
    for index, result in enumerate(results):
        record = record_of(result)
        assert record["workflow"] == json.loads(workflow.read_text())
        assert record["inputs"] == {"prompt": PROMPT, "steps": 3}
        assert (record["seed"], record["index"]) == (11, index) == (result.seed, result.index)
        assert (record["step"], record["run_id"]) == (result.step, finished.run_id)


def test_it_names_the_versions_the_device_and_the_time_it_took(results: list[ResultSaved]):
    record = record_of(results[0])
    libraries = (
        "torch", "diffusers", "transformers", "accelerate", "peft", "pillow", "numpy",
    )  # fmt: skip
    assert record["versions"] == {
        "diffusers-workbench": __version__,
        **{name: importlib.metadata.version(name) for name in libraries},
    }
    assert (record["device"], record["device_name"]) == ("cpu", "CPU")
    assert record["timings"]["compute_s"] > 0
    assert record["timings"]["load_s"] >= 0
    made = time.mktime(time.strptime(record["created"][:19], "%Y-%m-%dT%H:%M:%S"))
    assert 0 <= time.time() - made < 3600


def test_the_sidecar_says_the_same(results: list[ResultSaved]):
    for result in results:
        assert json.loads(Path(result.sidecar).read_text()) == record_of(result)


def test_the_hash_of_the_workflow_is_in_the_record(bench: Bench, workflow: Path):
    (first, *_) = bench.run(workflow).results
    assert record_of(first)["workflow_sha256"] == bench.plan(workflow).workflow_hash


def test_the_record_does_not_name_the_machines_folders(results: list[ResultSaved], bench: Bench):
    # The workflow is kept as it was written, and this one names its model by a path.
    record = record_of(results[0])
    del record["workflow"]
    assert str(bench.folder) not in json.dumps(record)


def test_the_files_are_of_the_kind_that_was_asked_for(finished: Finished):
    names = [Path(result.path).name for result in finished.results]
    assert len(set(names)) == 2 * len(KINDS)
    for result in finished.results:
        assert result.path.endswith(KINDS[result.content_type])
        assert Path(result.sidecar).name == f"{Path(result.path).name}.json"


def test_only_the_results_of_the_last_step_are_final(finished: Finished):
    last = finished.results[-1].step
    assert [result.final for result in finished.results] == [
        result.step == last for result in finished.results
    ]


def test_a_drawn_seed_is_in_the_record_and_draws_the_same_again(bench: Bench):
    wanted = document(id="drawn")
    first = bench.run(wanted, seed=None)
    seed = record_of(first.results[0])["seed"]
    again = bench.run(wanted, seed=seed)
    assert (pixels(first)[0] == pixels(again)[0]).all()
    assert bench.run(wanted, seed=None).results[0].seed != seed


def test_a_reader_that_knows_nothing_of_records_sees_the_picture(finished: Finished):
    from PIL import Image

    for result in finished.results:
        with Image.open(result.path) as picture:
            picture.load()
            assert picture.size == (result.width, result.height)
    png = next(r for r in finished.results if r.content_type == "image/png")
    with Image.open(png.path) as picture:
        assert list(picture.text) == [RECORD_KEY]
