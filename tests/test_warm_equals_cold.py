"""Images do not depend on earlier runs: every workflow on the bundled model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.engine import Engine
from tests.engines import Finished, run, started_engine

WORKFLOWS = ("text-to-image", "draw-then-outline", "variations", "inpaint")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each workflow is given beside its defaults; the pictures lie where engines may read."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (128, 128), (224, 36, 36)).save(folder / "picture.png")
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).ellipse((32, 32, 96, 96), fill=255)
    mask.save(folder / "mask.png")
    picture = {"image": str(folder / "picture.png")}
    return {
        "text-to-image": {},
        "draw-then-outline": {},
        "variations": picture,
        "inpaint": {**picture, "mask_image": str(folder / "mask.png")},
    }


@pytest.fixture(scope="module")
def warm(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, dict[str, str]]
) -> Iterator[Engine]:
    """An engine in which every workflow has run, with other seeds than the tests'."""
    with started_engine(tmp_path_factory.getbasetemp()) as engine:
        for name in WORKFLOWS:
            assert run(engine, document(name), inputs[name], seed=99).success
        yield engine


def document(name: str) -> Path:
    return Path(__file__).parent.parent / "workflows" / f"{name}.json"


def pixels(finished: Finished) -> list[np.ndarray]:
    return [np.asarray(Image.open(result.path)) for result in finished.results]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_warm_run_equals_run_in_fresh_process(
    name: str,
    warm: Engine,
    inputs: dict[str, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    again = run(warm, document(name), inputs[name], seed=7)
    with started_engine(tmp_path_factory.getbasetemp()) as fresh:
        cold = run(fresh, document(name), inputs[name], seed=7)

    assert again.success.loaded == ()
    assert cold.success.loaded != ()
    assert len(again.results) == len(cold.results) >= 1
    for one, other in zip(pixels(again), pixels(cold), strict=True):
        assert np.array_equal(one, other)


def test_lora_does_not_affect_next_workflow(
    warm: Engine, inputs: dict[str, dict[str, str]]
) -> None:
    before = run(warm, document("text-to-image"), seed=5)
    outlined = run(warm, document("draw-then-outline"), seed=5)
    after = run(warm, document("text-to-image"), seed=5)
    assert outlined.success.loaded == ()
    assert np.array_equal(pixels(before)[0], pixels(after)[0])
    drawn, restyled = pixels(outlined)
    assert not np.array_equal(drawn, restyled)
