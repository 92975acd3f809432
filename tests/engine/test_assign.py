"""Which run starts next, and in which slot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.engine.assign import ReadyRun, assign, missing_bytes

LIMIT_S = 30.0
SLOTS = st.lists(st.integers(0, 3), unique=True)
"""Free slots, the preferred one first."""
MISSING = st.dictionaries(st.integers(0, 3), st.integers(0, 5) | st.just(10**11))


@st.composite
def queues(draw: st.DrawFn, held: st.SearchStrategy[dict[int, int]] = MISSING) -> list[ReadyRun]:
    """Ready runs in order, some of them passed over at a time before 100."""
    since = st.none() | st.floats(0.0, 100.0)
    return [
        ReadyRun(f"run {number}", draw(held), draw(since))
        for number in range(draw(st.integers(0, 6)))
    ]


def test_assign_starts_nothing_without_a_run_or_a_free_slot():
    assert assign([], [0], 0.0, LIMIT_S) == ((), frozenset())
    assert assign([ReadyRun("a")], [], 0.0, LIMIT_S) == ((), frozenset())


def test_assign_prefers_the_run_that_misses_the_fewest_bytes():
    queue = [ReadyRun("cold"), ReadyRun("half", {0: 50}), ReadyRun("warm", {0: 0})]
    assert assign(queue, [0], 0.0, LIMIT_S) == ((("warm", 0),), {"cold", "half"})
    assert assign(queue[:2], [0], 0.0, LIMIT_S) == ((("half", 0),), {"cold"})


def test_assign_gives_each_run_the_slot_that_has_its_model():
    queue = [ReadyRun("a", {1: 0}), ReadyRun("b", {0: 0})]
    assert set(assign(queue, [0, 1], 0.0, LIMIT_S).starts) == {("a", 1), ("b", 0)}


def test_assign_gives_a_new_model_the_preferred_slot():
    assert assign([ReadyRun("new")], [2, 0], 0.0, LIMIT_S).starts == (("new", 2),)


def test_assign_puts_an_overdue_run_before_all_later_ones():
    overdue = ReadyRun("cold", {}, passed_over_since=10.0)
    queue = [overdue, ReadyRun("warm", {0: 0})]
    assert assign(queue, [0], 39.9, LIMIT_S).starts == (("warm", 0),)
    assert assign(queue, [0], 40.0, LIMIT_S) == ((("cold", 0),), frozenset())


def test_missing_bytes_are_those_of_components_that_are_not_held():
    loads = {"unet": 100, "vae": 10, "scheduler": 0}
    assert missing_bytes(loads, {"unet", "text encoder"}) == 10
    assert missing_bytes(loads, {"unet", "vae"}) == 0
    assert missing_bytes({}, set()) == 0


def test_missing_bytes_are_unknown_without_weights_in_common():
    assert missing_bytes({"unet": 100, "scheduler": 0}, {"scheduler"}) is None
    assert missing_bytes(None, {"unet"}) is None


@given(queues(), SLOTS)
def test_assign_with_a_limit_of_zero_keeps_the_order(queue: list[ReadyRun], free: list[int]):
    starts, passed_over = assign(queue, free, 100.0, 0.0)
    expected = [run.run_id for run in queue][: len(free)]
    assert [run_id for run_id, _ in starts] == expected
    assert not passed_over


@given(queues(held=st.just({})), SLOTS)
def test_assign_keeps_the_order_while_nothing_is_held(queue: list[ReadyRun], free: list[int]):
    fresh = [ReadyRun(run.run_id) for run in queue]
    starts = assign(fresh, free, 100.0, LIMIT_S).starts
    assert starts == tuple(zip((run.run_id for run in fresh), free, strict=False))


@given(queues(), SLOTS, st.floats(0.0, 200.0))
def test_assign_fills_every_slot_once_and_starts_every_run_once(
    queue: list[ReadyRun], free: list[int], now: float
):
    starts = assign(queue, free, now, LIMIT_S).starts
    assert len(starts) == min(len(queue), len(free))
    assert len({run_id for run_id, _ in starts}) == len({slot for _, slot in starts}) == len(starts)
    assert {slot for _, slot in starts} <= set(free)


@given(queues(), SLOTS, st.floats(0.0, 200.0))
def test_assign_is_deterministic_and_tells_who_is_passed_over(
    queue: list[ReadyRun], free: list[int], now: float
):
    found = assign(queue, free, now, LIMIT_S)
    assert found == assign(list(queue), list(free), now, LIMIT_S)
    order = [run.run_id for run in queue]
    started = {run_id for run_id, _ in found.starts}
    waiting = [run for run in order if run not in started]
    later = {a for a in waiting if any(order.index(b) > order.index(a) for b in started)}
    assert found.passed_over == later


ROUNDS = st.lists(
    st.tuples(
        st.floats(0.0, 20.0),  # seconds since the previous round
        st.lists(MISSING, max_size=3),  # arriving runs
        st.lists(st.integers(0, 3), unique=True, max_size=2),  # free slots
    ),
    max_size=30,
)


@given(ROUNDS)
def test_assign_passes_nobody_over_for_longer_than_the_limit(
    rounds: list[tuple[float, list[dict[int, int]], list[int]]],
):
    now, number = 0.0, 0
    queue: list[tuple[str, dict[int, int]]] = []
    since: dict[str, float] = {}
    for seconds, coming, free in rounds:
        now += seconds
        for missing in coming:
            queue.append((f"run {number}", missing))
            number += 1
        ready = [ReadyRun(run_id, missing, since.get(run_id)) for run_id, missing in queue]
        starts, passed_over = assign(ready, free, now, LIMIT_S)
        for run_id in passed_over:
            assert now - since.setdefault(run_id, now) < LIMIT_S
        started = {run_id for run_id, _ in starts}
        queue = [each for each in queue if each[0] not in started]
