"""Deadlines and restarts of a worker: pure decisions over time."""

from __future__ import annotations

import pytest

from app.engine.slots.outstanding import Outstanding
from app.engine.slots.starts import STEADY_S, Starts
from app.protocol import CleanUp, FreeMemory, PinComponent
from app.settings import EngineSettings

FREE, PIN = FreeMemory(request_id="1"), PinComponent(request_id="2", key="a", pinned=True)
CLEAN = CleanUp(request_id="3")


@pytest.fixture
def sent() -> Outstanding:
    return Outstanding(
        EngineSettings(
            command_limit_s=10.0, cleanup_limit_s=1800.0, start_limit_s=300.0,
            cancel_grace_s=5.0, cancel_grace_limit_s=30.0,
        )
    )  # fmt: skip


def test_command_limit_starts_when_earlier_commands_are_done(sent: Outstanding):
    assert sent.kill_at(None) is None
    sent.sent(FREE, now=0.0)
    sent.sent(PIN, now=5.0)
    assert sent.kill_at(None) == 10.0
    assert "hung while freeing memory" in sent.why_late(10.0)
    sent.done("1", now=9.0)
    assert sent.kill_at(None) == 19.0
    assert "hung while pinning a component" in sent.why_late(19.0)
    sent.done("2", now=10.0)
    assert sent.kill_at(None) is None


def test_begun_run_has_no_limit_and_later_commands_wait_for_it(sent: Outstanding):
    sent.sent_run("run", now=0.0)
    sent.begun("run")
    sent.sent(PIN, now=5.0)
    sent.cancelled(now=6.0)
    assert sent.kill_at(None) is None
    sent.done("run", now=500.0)
    assert sent.kill_at(None) == 510.0


def test_idle_work_limit_shrinks_when_a_command_waits(sent: Outstanding):
    sent.sent(CLEAN, now=0.0)
    assert sent.kill_at(None) == 1800.0
    sent.sent_run("run", now=100.0)
    assert sent.kill_at(None) == 110.0
    sent.begun("run")
    assert sent.kill_at(None) is None


def test_start_limit_is_not_shortened(sent: Outstanding):
    sent.started(now=0.0)
    sent.sent(PIN, now=1.0)
    sent.cancelled(now=2.0)
    assert sent.kill_at(None) == 300.0
    sent.is_ready(now=100.0)
    assert sent.kill_at(None) == 110.0


def test_cancel_limits_a_hang_to_the_grace_period(sent: Outstanding):
    sent.sent(CLEAN, now=0.0)
    sent.cancelled(now=1.0)
    assert sent.kill_at(None) == 6.0


def test_grace_grows_with_gaps_up_to_its_limit(sent: Outstanding):
    assert sent.kill_at(100.0) == 105.0
    sent.gap(4.0)
    sent.gap(1.0)
    assert sent.kill_at(100.0) == 112.0
    assert sent.why_late(112.0).startswith("The worker did not stop within 12 seconds")
    sent.gap(500.0)
    assert sent.kill_at(100.0) == 130.0
    sent.started(now=0.0)
    sent.is_ready(now=0.0)
    assert sent.kill_at(100.0) == 105.0


def test_unexpected_answer_is_ignored(sent: Outstanding):
    sent.sent(FREE, now=0.0)
    sent.done("", now=5.0)
    sent.begun("7")
    assert sent.kill_at(None) == 10.0
    sent.clear()
    sent.cancelled(now=0.0)
    assert sent.kill_at(None) is None


def test_failed_starts_double_the_delay_and_the_third_gives_up():
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


def test_worker_ready_for_a_moment_counts_as_failed_start():
    starts = Starts(delay_s=1.0)
    for _ in range(3):
        starts.is_ready(now=0.0)
        starts.ended(now=STEADY_S - 1)
    assert starts.given_up


def test_steady_worker_restarts_at_once():
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


def test_request_does_not_shorten_the_delay():
    starts = Starts(delay_s=1.0)
    starts.ended(now=10.0)
    starts.try_again()
    assert starts.next_at == 11.0
