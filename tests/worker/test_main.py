"""The worker's logging and environment."""

from __future__ import annotations

import logging

import pytest

from app.protocol import Event, Logged
from app.worker.main import ALLOCATOR, EXPANDABLE, _Forwarder, added_to


def test_invalid_log_line_does_not_fail_call(capsys: pytest.CaptureFixture[str]):
    sent: list[Event] = []
    log = logging.Logger("library")
    log.addHandler(_Forwarder(sent.append))
    log.warning("%d of %d", 1)
    log.warning("%d of %d", 1, 2)
    assert [event.text for event in sent if isinstance(event, Logged)] == ["1 of 2"]
    assert "Logging error" in capsys.readouterr().err


def test_allocator_setting_of_user_wins_under_any_name():
    assert added_to({})[ALLOCATOR[0]] == EXPANDABLE
    for name in ALLOCATOR:
        assert not set(ALLOCATOR) & added_to({name: "max_split_size_mb:64"}).keys()


def test_remote_code_setting_overrides_environment():
    assert (
        added_to({"DIFFUSERS_DISABLE_REMOTE_CODE": "0"})["DIFFUSERS_DISABLE_REMOTE_CODE"] == "true"
    )
    assert "TOKENIZERS_PARALLELISM" not in added_to({"TOKENIZERS_PARALLELISM": "true"})
