"""What the worker's libraries log reaches the parent."""

from __future__ import annotations

import logging

import pytest

from app.protocol import Event, Logged
from app.worker.main import _Forwarder


def test_a_line_that_cannot_be_put_together_fails_no_call(capsys: pytest.CaptureFixture[str]):
    sent: list[Event] = []
    log = logging.Logger("library")
    log.addHandler(_Forwarder(sent.append))
    log.warning("%d of %d", 1)
    log.warning("%d of %d", 1, 2)
    assert [event.text for event in sent if isinstance(event, Logged)] == ["1 of 2"]
    assert "Logging error" in capsys.readouterr().err
