"""Passwords and tokens are not in a worker's environment; the hub's token comes with a run."""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from app.engine.secrets import find_hub_token
from app.engine.slots.local import WorkerProcess
from app.engine.slots.worker import WorkerExit
from app.protocol import Event, Logged, StartRun, encode
from app.settings import PathSettings, WorkerSettings
from tests.engine.bench import PATIENCE_S, Bench, settings

SECRETS = {
    "DW_AUTH": "anna:password-of-the-page",
    "DW_OPERATOR_AUTH": "root:password-of-the-operator",
    "HF_TOKEN": "hf_token_of_the_operator",
    "HUGGING_FACE_HUB_TOKEN": "hf_older_name_of_the_token",
}


def telling_worker(connection: Connection, _settings: WorkerSettings, _outputs: Path) -> None:
    """Tells its environment, as it sees it and as the system shows it."""
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


@pytest.mark.parametrize("trusted", [(), ("owner/name",)])
def test_token_goes_with_the_run_unless_code_of_a_repository_may_run(
    unstarted: Bench, monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...]
):
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    paths = PathSettings(outputs=unstarted.outputs, trusted_code=trusted)
    unstarted.at_start("nothing")
    unstarted.engine.start(settings(unstarted.outputs).model_copy(update={"paths": paths}))
    assert unstarted.run("nothing").success
    (started,) = (each for each in unstarted.heard.commands if isinstance(each, StartRun))
    assert started.hub_token == (None if trusted else SECRETS["HF_TOKEN"])
    assert SECRETS["HF_TOKEN"] not in repr(started)


def test_token_is_found_where_the_hubs_library_looks(tmp_path: Path):
    (tmp_path / "token").write_text("hf_of_the_login\n")
    (tmp_path / "other").write_text("hf_of_the_other")
    home = {"HF_HOME": str(tmp_path)}
    assert find_hub_token(home) == "hf_of_the_login"
    assert find_hub_token(home | {"HF_TOKEN": " hf_a "}) == "hf_a"
    assert find_hub_token(home | {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_b"}) == "hf_b"
    assert find_hub_token({"HF_TOKEN_PATH": str(tmp_path / "other")}) == "hf_of_the_other"
    assert find_hub_token({"HF_HOME": str(tmp_path / "none")}) is None
    assert find_hub_token({"HF_TOKEN_PATH": str(tmp_path)}) is None
