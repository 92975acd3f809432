"""Calls by plain HTTP that wait for their answer: its status and sentence, and dropped calls."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from gradio_client import Client

from tests.api.test_malformed import OF_PYTHON, posted
from tests.plan_bench import drawing, step
from tests.servers import Server, started_server

MANY: list[Any] = ["a red circle " * 40, 4, 50, 7.5, None]
PATIENCE_S = 20.0


@pytest.mark.parametrize(
    ("name", "data", "status", "sentence"),
    [
        ("describe_workflow", ["nothing"], 404, "There is no workflow 'nothing'."),
        ("describe_workflow", [], 422, "'describe_workflow' takes 1 values, and 0 came."),
        ("cancel_job", ["nothing"], 404, "There is no run 'nothing'."),
        ("free_gpu", ["now"], 422, "The mode is one of: when_idle, cancel_and_free."),
        ("run_text_to_image", ["a", 99, 2, 7.5, None], 422, "99 is outside 1 to 4."),
        ("run_text_to_image", ["a", 1, {}, 7.5, None], 422, "A whole number is needed, not {}."),
        ("run_text_to_image", ["a", 1, 2, 7.5, "x"], 422, "The seed has to be a whole number"),
        ("run_variations", [None, "a", 0.5, 1, 2, 7.5, None], 422, "Picture is needed."),
        ("run_variations", [5, "a", 0.5, 1, 2, 7.5, None], 422, "an uploaded file or a URL"),
        (
            "run_variations",
            [{"path": "/etc/passwd"}, "a", 0.5, 1, 2, 7.5, None],
            422,
            "an uploaded file or a URL",
        ),
    ],
)
def test_error_of_the_caller_is_a_sentence_with_a_status_of_its_own(
    server: Server, name: str, data: list[Any], status: int, sentence: str
) -> None:
    logged = len(server.log.read_text())
    answered, text = posted(server, f"run/{name}", {"data": data})
    assert answered == status
    assert sentence in json.loads(text)["error"]
    assert not OF_PYTHON.search(text)
    assert "Traceback" not in server.log.read_text()[logged:]


def dropped(server: Server, path: str, body: Any) -> str:
    """Makes a call and hangs up as soon as its run is in the worker; returns the run's id."""
    logged = len(server.log.read_text())
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    content = json.dumps(body).encode()
    head = (
        f"POST /gradio_api/{path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port or 80)) as connection:
        connection.sendall(head.encode() + content)
        return logged_run(server, logged, "started")


def logged_run(server: Server, start: int, what: str) -> str:
    """Returns the id of the first run that the log says this of, from that place in it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for run_id, told in server.runs_logged(start):
            if told == what:
                return run_id
        assert time.monotonic() < deadline, server.log.read_text()[start:]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("run/run_text_to_image", {"data": MANY}),
        ("run/run_text_to_image", {"data": MANY, "session_hash": "dropping"}),
        (
            "run/run_draw_then_outline",
            {"data": ["a star " * 40, 0.9, 0.8, 50, 7.5, None]},
        ),
    ],
)
def test_dropped_call_cancels_its_run(server: Server, path: str, body: Any) -> None:
    logged = len(server.log.read_text())
    run_id = dropped(server, path, body)
    assert logged_run(server, logged, "ended: cancelled") == run_id


LORAS = [{"model_name": "outline", "weight_name": "a.safetensors", "scale": 1.0}]
LISTS: dict[str, tuple[Any, str]] = {
    "adapters": (LORAS, r"list\[dict\(str, Any\)\]|list\(dict\(str, Any\)\)"),
    "words": (["a", "b"], r"list\[str\]|list\(str\)"),
    "mixed": ([1, "a"], r"list\[Any\]|list\(Any\)|list"),
    "settings": ({"a": 1}, r"dict\(str, Any\)|dict\[str, Any\]"),
}


def test_lists_and_objects_are_typed_as_they_are(tmp_path: Path) -> None:
    def fill(workflows: Path) -> None:
        variables = {name: default for name, (default, _) in LISTS.items()}
        written = drawing(variables={"prompt": "a", **variables}, steps=[step(arguments={})])
        (workflows / "typed.json").write_text(json.dumps(written))

    with started_server(tmp_path, fill) as server:
        client = Client(server.url, verbose=False, analytics_enabled=False)
        endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
        client.close()
    types = {
        each["parameter_name"]: each["python_type"]["type"]
        for each in endpoints["/run_typed"]["parameters"]
    }
    for name, (_, expected) in LISTS.items():
        assert re.fullmatch(expected, types[name]), types
