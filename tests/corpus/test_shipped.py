"""Shipped workflows of several steps, or with pictures, run on stand-ins of their models.

Those of one model that only take a prompt: tests/test_families.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.corpus.bench import Corpus, corpus, problems
from tests.corpus.shipped import SHIPPED
from tests.standins import FAMILIES, StandIns

COSTLY = {"qwen-image-edit"}
"""It sees its images in a million pixels; `make corpus` runs it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("shipped")
    with corpus(folder, StandIns(folder / "models")) as started:
        yield started


@pytest.mark.parametrize("stem", sorted(SHIPPED.keys() - {*FAMILIES} - COSTLY))
def test_shipped_workflow_writes_its_files(place: Corpus, stem: str):
    assert problems(place.shipped(stem, SHIPPED[stem]), SHIPPED[stem].saved) == []
