"""What each stand-in draws depends on prompt, seed and steps: else no test with it could fail."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.corpus.bench import make_media, same, write_own
from tests.corpus.own import OWN, Document, Own
from tests.engines import Finished
from tests.standins import StandIns
from tests.worker.bench import Bench

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
STEPS = ("num_inference_steps", "decoder_num_inference_steps")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("reacting")
    make_media(folder)
    return Bench(folder)


def changed(own: Own, names: tuple[str, ...], value: Any) -> Own | None:
    """Returns the document with another value of this argument; None where it has none."""
    document: Document = copy.deepcopy(own.document)
    found = False
    for step in document["steps"]:
        arguments = step.get("pipeline", {}).get("arguments", {})
        for name in names:
            if name in arguments:
                found, arguments[name] = True, value
    return own._replace(document=document) if found else None


@pytest.mark.parametrize("own", [own for own in OWN if not own.is_costly], ids=lambda own: own.name)
def test_stand_in_reacts_to_prompt_seed_and_steps(own: Own, bench: Bench, stand_ins: StandIns):
    stand_ins.add_named(own.document)
    paths = PathSettings(models=(stand_ins.folder,), media=(bench.folder,))

    def drawn(document: Own, seed: int = 3) -> Finished:
        plan = make_plan(write_own(document, bench.folder), {}, paths=paths, seed=seed)
        finished = bench.run(plan)
        assert finished.success
        return finished

    first = drawn(own)
    assert same(first, drawn(own))
    unchanged = [
        what
        for what, other in (
            ("prompt", changed(own, ("prompt",), "something else altogether, in green")),
            ("steps", changed(own, STEPS, 4)),
        )
        if other is not None and same(first, drawn(other))
    ]
    unchanged += ["seed"] * same(first, drawn(own, seed=4))
    assert unchanged == []
