"""Which run goes next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.engine.queue import next_run, positions

WAITING = st.lists(st.uuids().map(str), unique=True)


def test_nothing_goes_next_when_nobody_waits():
    assert next_run([]) is None
    assert positions([]) == {}


def test_first_come_first_served():
    assert next_run(["first", "second"]) == "first"


def test_a_position_is_how_many_go_before():
    assert positions(["first", "second", "third"]) == {"first": 0, "second": 1, "third": 2}


@given(WAITING)
def test_positions_tell_the_order_in_which_the_runs_will_go(waiting: list[str]):
    told = positions(waiting)
    went = []
    while (run_id := next_run(waiting)) is not None:
        went.append(run_id)
        waiting.remove(run_id)
    assert went == sorted(told, key=told.__getitem__)
    assert sorted(told.values()) == list(range(len(went)))
