"""Passwords and tokens are not in a worker's environment."""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from app.engine.slots.local import WorkerProcess
from app.engine.slots.worker import WorkerExit
from app.protocol import Event, Logged, encode
from app.settings import WorkerSettings
from tests.engine.bench import PATIENCE_S

SECRETS = {
    "DW_AUTH": "anna:password-of-the-page",
    "DW_OPERATOR_AUTH": "root:password-of-the-operator",
    "HF_TOKEN": "hf_token_of_the_operator",
    "HUGGING_FACE_HUB_TOKEN": "hf_older_name_of_the_token",
}


def telling_worker(connection: Connection, _settings: WorkerSettings, _outputs: Path) -> None:
    """Reports its environment, as it sees it and as the system shows it."""
    shown = ""
    if sys.platform == "linux":
        shown = Path("/proc/self/environ").read_bytes().decode(errors="replace")
    text = json.dumps([dict(os.environ), shown])
    connection.send_bytes(encode(Logged(time=time.time(), level=20, logger="", text=text)))


def test_worker_has_no_secret_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OF_THE_PERSON", "stays")
    told: queue.SimpleQueue[Event | WorkerExit] = queue.SimpleQueue()
    WorkerProcess(
        telling_worker, tmp_path, WorkerSettings(device="cpu"), on_event=told.put, on_exit=told.put
    )
    event = told.get(timeout=PATIENCE_S)
    assert isinstance(event, Logged), event
    environment, shown = json.loads(event.text)
    assert environment["OF_THE_PERSON"] == "stays"
    for name, value in SECRETS.items():
        assert name not in environment
        assert value not in shown
        assert os.environ[name] == value
    assert isinstance(told.get(timeout=PATIENCE_S), WorkerExit)
