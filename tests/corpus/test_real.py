"""Third-party documents: each runs, or is refused with the expected reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import InvalidWorkflow
from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.corpus.bench import Corpus, corpus, problems, same
from tests.corpus.coverage import BLOCK, PAGE, block
from tests.corpus.real import REAL, Mistaken, Runs
from tests.standins import StandIns

FOR_PARTS = {
    line.for_part: name for name, line in REAL.items() if isinstance(line, Runs) and line.for_part
}


def test_every_available_document_has_an_expected_outcome(real_workflows: Path):
    names = {path.relative_to(real_workflows).as_posix() for path in real_workflows.rglob("*.json")}
    assert names == set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_document_plans_or_is_refused_as_expected(name: str, real_workflows: Path, tmp_path: Path):
    line = REAL[name]
    try:
        make_plan(real_workflows / name, {}, paths=PathSettings(models=(tmp_path,)), seed=1)
    except InvalidWorkflow as refused:
        found = [(problem.place, problem.message) for problem in refused.problems]
    else:
        found = []
    if isinstance(line, Mistaken):
        at_place = [sentence for place, sentence in found if place == line.place]
        assert any(line.sentence in sentence for sentence in at_place), found
    elif isinstance(line, Runs):
        assert found == []


def test_coverage_page_is_current():
    assert BLOCK.search(PAGE.read_text())[0] == block(), "write it with: make corpus"


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, stand_ins: StandIns, real_workflows: Path
) -> Iterator[Corpus]:
    with corpus(tmp_path_factory.mktemp("corpus"), stand_ins) as started:
        yield started


@pytest.mark.parametrize("part", FOR_PARTS)
def test_document_of_each_family_runs_cold_and_warm(
    part: str, worker: Corpus, real_workflows: Path
):
    name = FOR_PARTS[part]
    line = REAL[name]
    assert isinstance(line, Runs)
    cold = worker.real(real_workflows, name, line)
    assert problems(cold, line.saved) == []
    warm = worker.real(real_workflows, name, line)
    assert warm.success.loaded == ()
    assert same(cold, warm)
