"""A server with a hanging worker answers everybody, and reports its end."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server, started_server

LARGE = {"/steps/0/pipeline/arguments/prompt": ["a red circle " * 80] * 400}
"""More than a pipe holds while nobody reads it."""
MANY = {"prompt": "a red circle", "steps": 50, "pictures": 4}
END_S = 5.0
"""Promised by `serve`."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may end."""
    with started_server(tmp_path) as server:
        yield server


class Stream:
    """A client that reads `/generate` without Gradio's client."""

    def __init__(self, server: Server, changes: dict[str, Any]) -> None:
        data = ["text-to-image", MANY, None, None, True, changes]
        request = urllib.request.Request(
            f"{server.url}/gradio_api/call/generate",
            data=json.dumps({"data": data}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            event_id = json.load(answer)["event_id"]
        self._lines = urllib.request.urlopen(
            f"{server.url}/gradio_api/call/generate/{event_id}", timeout=60
        )

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields its events, including Gradio's errors."""
        kind = ""
        with self._lines:
            for line in self._lines:
                name, _, text = line.decode().strip().partition(": ")
                kind = text if name == "event" else kind
                if name == "data" and kind == "error":
                    yield {"event": "gradio's error", "data": text}
                elif name == "data" and text not in ("null", "") and kind == "generating":
                    yield json.loads(text)[0]


def answers(server: Server, path: str) -> int:
    with urllib.request.urlopen(server.url + path, timeout=5) as answer:
        return int(answer.status)


def ended_within(server: Server, limit_s: float) -> None:
    began_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=30)
    assert time.monotonic() - began_at < limit_s, server.log.read_text()


def test_server_with_hanging_worker_answers_and_ends_in_time(own: Server):
    """The streams of the run in the worker and of the waiting one report the end."""
    os.kill(own.status()["pid"], signal.SIGSTOP)
    streams = [Stream(own, LARGE), Stream(own, {})]
    with ThreadPoolExecutor() as pool:
        told = [pool.submit(list, stream.events()) for stream in streams]
        deadline = time.monotonic() + 30
        while not (status := own.status())["queue"]:
            assert time.monotonic() < deadline, status
        for _ in range(3):
            assert [answers(own, "/healthz"), answers(own, "/readyz")] == [200, 200]
            assert own.status()["worker"] == "busy"
        ended_within(own, END_S)
        for each in told:
            last = each.result()[-1]
            assert last["event"] == "cancelled", last
            assert last["notice"] == "The workbench was stopped."
