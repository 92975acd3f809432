"""Arguments that diffusers needs as tuples are given as JSON's lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.standins import build_sdxl
from tests.worker.bench import Bench, document, same, step

# diffusers' Euler scheduler passes tensors to NumPy in a deprecated way.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    build_sdxl(folder)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        {"original_size": [32, 32]},
        {"crops_coords_top_left": [8, 16]},
        {"negative_original_size": [16, 16], "negative_target_size": [96, 64]},
    ],
)
def test_list_is_given_as_a_tuple_where_one_is_needed(
    bench: Bench, sdxl: Path, arguments: dict[str, Any]
):
    size = {"width": 64, "height": 64}
    plain = bench.run(document(step(model=sdxl, kind="XL", **size)))
    assert not same(plain, bench.run(document(step(model=sdxl, kind="XL", **size, **arguments))))


def test_list_stays_one_where_either_may_be_given(bench: Bench, sdxl: Path):
    size = {"width": 64, "height": 64}
    pair = step(model=sdxl, kind="XL", **size)
    pair["pipeline"]["arguments"]["prompt"] = ["a fox", "a hen"]
    assert len(bench.run(document(pair)).results) == 2
