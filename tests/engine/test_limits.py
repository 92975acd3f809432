"""When the worker is late, and when it is started again: pure decisions over time."""

from __future__ import annotations

from app.engine.outstanding import Outstanding
from app.engine.starts import STEADY_S, Starts


def test_clock_of_a_command_starts_when_those_before_it_are_done():
    sent = Outstanding()
    assert sent.due_at is None
    sent.add("1", "freeing memory", 10.0, now=0.0)
    sent.add("2", "pinning", 10.0, now=5.0)
    assert (sent.due_at, sent.doing) == (10.0, "freeing memory")
    sent.done("1", now=9.0)
    assert (sent.due_at, sent.doing) == (19.0, "pinning")
    sent.done("2", now=10.0)
    assert sent.due_at is None


def test_begun_run_has_no_limit_and_what_follows_has_one_from_its_end():
    sent = Outstanding()
    sent.add("run", "about to begin a run", 10.0, now=0.0)
    sent.begun("run")
    sent.add("pin", "pinning", 10.0, now=5.0)
    assert sent.due_at is None
    sent.hurry(1.0)
    assert sent.due_at is None
    sent.done("run", now=500.0)
    assert sent.due_at == 510.0


def test_idle_work_has_longer_only_while_nobody_waits():
    sent = Outstanding()
    sent.add("clean", "cleaning up", 1800.0, now=0.0)
    assert sent.due_at == 1800.0
    sent.add("run", "about to begin a run", 120.0, now=100.0)
    assert sent.due_at == 220.0
    sent.begun("run")
    assert sent.due_at is None


def test_answer_to_nothing_changes_nothing():
    sent = Outstanding()
    sent.add("1", "freeing memory", 10.0, now=0.0)
    sent.done("", now=5.0)
    sent.begun("7")
    assert sent.due_at == 10.0
    sent.clear()
    sent.hurry(0.0)
    assert (sent.due_at, sent.doing) == (None, "")


def test_each_failed_start_doubles_the_delay_and_the_third_ends_it():
    starts = Starts(delay_s=1.0)
    assert starts.next_at == 0.0
    starts.ended(now=10.0)
    assert starts.next_at == 11.0
    starts.ended(now=20.0)
    assert starts.next_at == 22.0
    starts.ended(now=30.0)
    assert (starts.next_at, starts.given_up) == (None, True)
    starts.try_again()
    assert starts.next_at == 0.0
    starts.ended(now=40.0)
    assert starts.given_up


def test_worker_that_was_ready_for_a_moment_did_not_come_up():
    starts = Starts(delay_s=1.0)
    for _ in range(3):
        starts.is_ready(now=0.0)
        starts.ended(now=STEADY_S - 1)
    assert starts.given_up


def test_worker_that_has_worked_or_stood_for_long_is_started_again_at_once():
    starts = Starts(delay_s=1.0)
    for _ in range(5):
        starts.is_ready(now=0.0)
        starts.ended(now=STEADY_S)
        assert starts.next_at == STEADY_S
    for _ in range(5):
        starts.is_ready(now=100.0)
        starts.has_worked()
        starts.ended(now=101.0)
        assert starts.next_at == 101.0


def test_asking_does_not_shorten_a_delay():
    starts = Starts(delay_s=1.0)
    starts.ended(now=10.0)
    starts.try_again()
    assert starts.next_at == 11.0
