"""The record of each result."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app import __version__
from app.media.urls import without_query
from app.outputs import RECORD_KEY
from app.protocol import ResultSaved
from app.worker.results.record import without_paths
from tests.engines import Finished
from tests.worker.bench import SHAPES, Bench, document, pixels, step
from tests.worker.results.files import read_record

KINDS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
PROMPT = "ein roter Kreis – 赤い円 🔴"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def workflow(bench: Bench) -> Path:
    """A workflow that draws two images in each format; its variables have defaults."""
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
    """Returns the two results of one format."""
    return [result for result in finished.results if result.content_type == request.param]


def record_of(result: ResultSaved) -> dict[str, Any]:
    record = read_record(Path(result.path))
    assert record is not None
    return record


def test_image_contains_its_record(results: list[ResultSaved], finished: Finished, workflow: Path):
    for index, result in enumerate(results):
        record = record_of(result)
        assert record["workflow"] == without_paths(json.loads(workflow.read_text()))
        assert record["inputs"] == {"prompt": PROMPT, "steps": 3}
        assert (record["seed"], record["index"]) == (11, index) == (result.seed, result.index)
        assert (record["step"], record["run_id"]) == (result.step, finished.run_id)


def test_record_has_versions_device_and_timings(results: list[ResultSaved]):
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


def test_sidecar_equals_embedded_record(results: list[ResultSaved]):
    for result in results:
        assert json.loads(Path(result.sidecar).read_text()) == record_of(result)


def test_record_has_workflow_hash(bench: Bench, workflow: Path):
    (first, *_) = bench.run(workflow).results
    assert record_of(first)["workflow_sha256"] == bench.plan(workflow).workflow_hash


def test_record_has_no_folder_names(results: list[ResultSaved], bench: Bench):
    record = record_of(results[0])
    (loading,) = {
        json.dumps(each["pipeline"]["from_pretrained_arguments"])
        for each in record["workflow"]["steps"]
    }
    assert json.loads(loading)["model_name"] == "shapes"
    for folder in (bench.folder, SHAPES):
        assert str(folder) not in json.dumps(record)


def test_result_files_have_requested_type(finished: Finished):
    names = [Path(result.path).name for result in finished.results]
    assert len(set(names)) == 2 * len(KINDS)
    for result in finished.results:
        assert result.path.endswith(KINDS[result.content_type])
        assert Path(result.sidecar).name == f"{Path(result.path).name}.json"


def test_results_of_last_step_are_final(finished: Finished):
    last = finished.results[-1].step
    assert [result.final for result in finished.results] == [
        result.step == last for result in finished.results
    ]


def test_drawn_seed_is_in_record_and_reproducible(bench: Bench):
    wanted = document(id="drawn")
    first = bench.run(wanted, seed=None)
    seed = record_of(first.results[0])["seed"]
    again = bench.run(wanted, seed=seed)
    assert (pixels(first)[0] == pixels(again)[0]).all()
    assert bench.run(wanted, seed=None).results[0].seed != seed


def test_image_with_record_opens_in_other_readers(finished: Finished):
    from PIL import Image

    for result in finished.results:
        with Image.open(result.path) as picture:
            picture.load()
            assert picture.size == (result.width, result.height)
    png = next(r for r in finished.results if r.content_type == "image/png")
    with Image.open(png.path) as picture:
        assert list(picture.text) == [RECORD_KEY]


# --- what a picture does not tell to whom it is passed on ----------------------------------------

SIGNED = "https://me:word@cdn.example.org:8443/a/cat.png?X-Amz-Signature=abc#top"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/home/ada/models/sdxl", "sdxl"), ("/home/ada/models/sdxl/", "sdxl"),
        ("~/pictures/cat.png", "cat.png"), ("C:\\Users\\ada\\cat.png", "cat.png"),
        ("\\\\server\\share\\cat.png", "cat.png"), ("../models/shapes", "../models/shapes"),
        ("owner/name", "owner/name"), ("a fox", "a fox"), ("/imagine a fox", "/imagine a fox"),
        ("/", "."), ("/3", "/3"), ("1/2", "1/2"), ("and/or both/either", "and/or both/either"),
        (SIGNED, "https://cdn.example.org:8443/a/cat.png"),
        ("https://example.org", "https://example.org"), ("data:image/png;base64,AAAA",
                                                       "data:image/png;base64"),
        ("note: a fox", "note: a fox"), (7, 7), (None, None), (True, True),
        ({"a": ["/home/ada/x.png", {"b": SIGNED}]},
         {"a": ["x.png", {"b": "https://cdn.example.org:8443/a/cat.png"}]}),
    ],
)  # fmt: skip
def test_record_omits_paths_and_url_secrets(given: Any, told: Any):
    assert without_paths(given) == told


def test_path_with_spaces_is_recognised_if_it_exists(tmp_path: Path):
    file = tmp_path / "my cat.png"
    assert without_paths(str(file)) == str(file)
    file.touch()
    assert without_paths(str(file)) == "my cat.png"
    assert without_paths(str(file), {str(file): "ab"}) == {"file": "my cat.png", "sha256": "ab"}


def test_invalid_url_is_omitted_from_record():
    assert without_query("https://[::1/secret") == "https:"


def test_record_identifies_image_by_hash(bench: Bench):
    file = bench.folder / "cat.png"
    Image.new("RGB", (64, 64), "red").save(file)
    wanted = document(
        step(kind="Img2Img", image="variable:image", strength=0.5),
        id="again", variables={"image": None},
    )  # fmt: skip
    finished = bench.run(bench.plan(bench.write(wanted, "again"), image=str(file)))
    record = record_of(finished.results[0])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["inputs"] == {"image": {"file": "cat.png", "sha256": digest}}
    assert str(bench.folder) not in Path(finished.results[0].sidecar).read_text()


def test_record_omits_paths_of_changes_and_fetched_files(bench: Bench):
    image = "/steps/0/pipeline/arguments/image"
    given = {"changes": {image: "/home/ada/cat.png"}, "fetched": {SIGNED: "ab"}}
    finished = bench.run(bench.plan(document()).model_copy(update=given))
    record = record_of(finished.results[0])
    assert record["changes"] == {image: "cat.png"}
    assert record["fetched"] == {"https://cdn.example.org:8443/a/cat.png": "ab"}
