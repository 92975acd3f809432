"""Limits per person, and unguessable run ids."""

from __future__ import annotations

import pytest

from app.dialect.plan import Plan
from app.errors import BadRequest, QueueFull
from tests.engine.bench import Bench


def test_queue_limit_per_person_applies_to_counted_people(
    unstarted: Bench,
) -> None:
    bench = unstarted.start(max_queued_runs_per_person=2)
    gate = bench.gate()
    bench.underway(f"wait for {gate}")

    def submit(person: str) -> str:
        return bench.engine.submit(bench.workflow, {"prompt": "nothing"}, person=person)

    waiting = [submit("anna"), submit("anna")]
    with pytest.raises(QueueFull, match="2 of your runs are waiting already"):
        submit("anna")
    submit("ben")
    for _ in range(3):
        submit("")
    bench.engine.cancel(waiting[0])
    submit("anna")
    gate.touch()


def test_run_refused_by_its_check_is_not_queued(bench: Bench) -> None:
    def refuse(plan: Plan) -> None:
        raise BadRequest(f"Not with the seed {plan.seed}.")

    before = bench.engine.runs()
    with pytest.raises(BadRequest, match="Not with the seed 7"):
        bench.engine.submit(bench.workflow, {"prompt": "nothing"}, seed=7, check=refuse)
    assert bench.engine.runs() == before


def test_run_ids_cannot_be_guessed(bench: Bench) -> None:
    """64 random bits: an id permits a cancel, and names the outputs folder."""
    first, second = (bench.submit("nothing").rpartition("-")[2] for _ in range(2))
    assert len(first) == len(second) == 16
    assert first != second
