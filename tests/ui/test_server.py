"""`serve` as a process: its addresses, access, and end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AuthenticationError

from tests.conftest import PROJECT
from tests.processes import left_over, started
from tests.ui.serving import answer, command, served

END_S = 5
"""Promised by `serve`."""


def test_busy_port_is_reported_before_start(tmp_path: Path) -> None:
    outputs = tmp_path / "none"
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "app", "serve", "--port", str(port), "--output", str(outputs)],
            cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"Port {port} on 127.0.0.1 cannot be used: ")
    assert ended.stderr.count("\n") == 1
    assert not outputs.exists()


def test_damaged_history_is_reported_on_page(tmp_path: Path) -> None:
    history = tmp_path / "outputs" / ".history" / "runs.sqlite"
    history.parent.mkdir(parents=True)
    history.write_bytes(b"this is no database" * 500)
    with served(tmp_path) as server, urllib.request.urlopen(server.url, timeout=30) as page:
        assert "The history was damaged" in page.read().decode()


@pytest.mark.parametrize("name", ["GRADIO_SHARE", "GRADIO_VIBE_MODE"])
def test_dangerous_environment_is_refused(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--port", "0"], cwd=PROJECT,
        env={**os.environ, name: "1"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"{name} is set.")


def test_server_beyond_loopback_demands_password_and_ends_with_terminal(
    tmp_path: Path,
) -> None:
    """127.0.0.2 stands for an address that others reach."""
    (tmp_path / "temporary").mkdir()
    with served(tmp_path, "--host", "127.0.0.2", TMPDIR=str(tmp_path / "temporary")) as server:
        login = re.fullmatch(r"User (\S+), password (\S{12,})\n", server.process.stdout.readline())
        assert login
        assert answer(f"{server.url}/config") == 401
        assert answer(f"{server.url}/gradio_api/info") == 401
        assert answer(f"{server.url}/healthz") == 200
        children = server.children
        server.process.stdout.close()
        _, seconds = server.end(signal.SIGHUP)
    assert seconds < END_S
    assert left_over(children, within_s=0.5) == []
    left = {folder.name.partition("_")[0] for folder in (tmp_path / "temporary").iterdir()}
    assert left <= {"torchinductor"}, "torch keeps a cache there; nobody else does"


def test_given_login_works_and_sigterm_ends_run_and_worker(
    tmp_path: Path,
) -> None:
    with served(tmp_path, "--auth", "me:a:secret") as server:
        with pytest.raises(AuthenticationError):
            Client(server.url, verbose=False)
        with pytest.raises(ValueError, match="Could not login"):
            Client(server.url, auth=("me", "wrong"), verbose=False)
        client = Client(server.url, auth=("me", "a:secret"), verbose=False)
        job = client.submit("text-to-image", {"steps": 50, "pictures": 4}, api_name="/generate")
        assert any(event["event"] == "step" for event in job)
        children = server.children
        assert children
        code, seconds = server.end()
        said = server.process.stdout.read()
        client.close()
    assert (code, seconds < END_S) == (0, True)
    assert "Traceback" not in (tmp_path / "server.log").read_text()
    assert left_over(children, within_s=0.5) == []
    assert said == "Stopping.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_started_by_nohup_survives_its_terminal(
    number: signal.Signals, tmp_path: Path
) -> None:
    ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with served(tmp_path, ignored=ignored) as server:
        children = server.children
        for process in (server.process, *children):
            process.send_signal(signal.SIGHUP)
        assert answer(f"{server.url}/config") == 200
        assert server.children == children
        code, _ = server.end(number)
    assert code == 0
    assert left_over(children, within_s=5) == []


def test_public_server_needs_no_password_and_killed_server_leaves_no_worker(
    tmp_path: Path,
) -> None:
    with served(tmp_path, "--host", "127.0.0.2", DW_PUBLIC="1") as server:
        assert "DW_PUBLIC=1" in server.process.stdout.readline()
        assert answer(f"{server.url}/config") == 200
        children = server.children
        assert children
        code, _ = server.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert left_over(children, within_s=30) == []


def test_sigterm_during_start_aborts_and_leaves_no_worker(tmp_path: Path) -> None:
    with started(
        command(tmp_path), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        children: list[psutil.Process] = []
        while not children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended by itself with {process.wait(0.05)}")
            children = psutil.Process(process.pid).children(recursive=True)
        sent = time.monotonic()
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert time.monotonic() - sent < END_S
    assert (process.returncode, said) == (130, "Stopping.\n")
    assert left_over(children, within_s=0.5) == []
