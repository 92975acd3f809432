"""Streams of runs: their events, cancelling, and a killed worker."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.exceptions import AppError

from tests.servers import Server

FEW = {"prompt": "a red circle on a white background", "steps": 2}
MANY = {"prompt": "a red circle on a white background", "steps": 50, "pictures": 4}
SOON_S = 30.0


def events_until(job: Job, wanted: str) -> list[dict[str, Any]]:
    """Returns the events of the stream up to the first of this kind."""
    seen: list[dict[str, Any]] = []
    for event in job:
        seen.append(event)
        if event["event"] == wanted:
            return seen
    raise AssertionError(f"no '{wanted}' in {[event['event'] for event in seen]}")


def ends_of(server: Server, run_id: str) -> list[str]:
    """Returns how this run has ended so far, by the worker's log."""
    return [what for name, what in server.runs_logged() if name == run_id and what != "started"]


def wait_until_idle(server: Server) -> None:
    """Waits until nothing runs or waits."""
    deadline = time.monotonic() + SOON_S
    while (status := server.status())["running"] or status["queue"]:
        assert time.monotonic() < deadline, status


def test_stream_has_events_from_queue_to_results(client: Client) -> None:
    client.predict(api_name="/free_gpu")
    job = client.submit(
        workflow="text-to-image", variables=FEW, seed=5, request_id="mine", fresh=True,
        api_name="/generate",
    )  # fmt: skip
    events = events_until(job, "done")
    kinds = list(dict.fromkeys(event["event"] for event in events))
    assert kinds == ["queued", "phase", "loading", "step", "result", "done"]
    assert {event["request_id"] for event in events} == {"mine"}
    assert len({event["job_id"] for event in events}) == 1
    steps = [(event["done"], event["total"]) for event in events if event["event"] == "step"]
    assert steps == [(1, 2), (2, 2)]
    assert {event["component"] for event in events if event["event"] == "loading"} >= {
        "unet",
        "vae",
    }
    assert (events[-1]["seed"], events[-1]["variables"]) == (5, FEW)


def test_run_cancelled_by_id_reports_phase(client: Client, server: Server) -> None:
    job = client.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    run_id = events_until(job, "step")[-1]["job_id"]
    other = Client(server.url, verbose=False, analytics_enabled=False)
    assert other.predict(job_id=run_id, api_name="/cancel_job") is True
    assert events_until(job, "cancelled")[-1]["phase"] == "denoising"
    assert other.predict(job_id=run_id, api_name="/cancel_job") is False
    other.close()
    assert ends_of(server, run_id) == ["ended: cancelled"]


def test_cancelled_client_job_stops_run(client: Client, server: Server) -> None:
    job = client.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    run_id = events_until(job, "step")[-1]["job_id"]
    job.cancel()
    wait_until_idle(server)
    assert ends_of(server, run_id) == ["ended: cancelled"]


def test_dropped_connection_stops_run(server: Server) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=SOON_S)
    connection.request(
        "POST",
        "/gradio_api/call/generate",
        json.dumps({"data": ["text-to-image", MANY, None, None, False, None]}),
        {"content-type": "application/json"},
    )
    event_id = json.load(connection.getresponse())["event_id"]
    connection.request("GET", f"/gradio_api/call/generate/{event_id}")
    answer = connection.getresponse()
    run_id = next(event["job_id"] for event in told(answer) if event["event"] == "step")
    connection.close()
    answer.close()
    wait_until_idle(server)
    assert ends_of(server, run_id) == ["ended: cancelled"]


def told(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yields the events of a raw stream."""
    for line in answer:
        if line.startswith(b"data: ["):
            yield json.loads(line.removeprefix(b"data: "))[0]


def test_killed_worker_fails_run_and_next_run_works(client: Client, server: Server) -> None:
    job = client.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    events_until(job, "step")
    worker = client.predict(api_name="/status")["pid"]
    os.kill(worker, signal.SIGKILL)
    killed = time.monotonic()
    event = events_until(job, "error")[-1]
    assert time.monotonic() - killed < 2
    assert "The worker process was ended by SIGKILL" in event["message"]
    with pytest.raises(AppError, match="ended by SIGKILL"):
        job.result(timeout=SOON_S)

    done = client.predict(**FEW, api_name="/run_text_to_image")
    assert done["images"]
    status = client.predict(api_name="/status")
    assert status["worker"] in {"ready", "busy"}
    assert status["pid"] != worker


def test_refused_request_is_error_event_and_raises(client: Client) -> None:
    """As in the README: scripts that only loop over the events must get the error too."""
    job = client.submit("variations", {"image": "/no/upload"}, api_name="/generate")
    (event,) = job
    assert event["event"] == "error"
    assert "has to be an uploaded file" in event["message"]
    with pytest.raises(AppError, match="has to be an uploaded file"):
        job.result(timeout=SOON_S)


class Raw:
    """A script that speaks HTTP: `call` posts, `stream` opens the call's stream."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._open: list[tuple[http.client.HTTPConnection, http.client.HTTPResponse | None]] = []

    def call(self, name: str, data: list[Any]) -> str:
        connection = self._connect()
        connection.request(
            "POST", f"/gradio_api/call/{name}", json.dumps({"data": data}),
            {"content-type": "application/json"},
        )  # fmt: skip
        event_id = json.load(connection.getresponse())["event_id"]
        connection.close()
        return str(event_id)

    def stream(self, name: str, event_id: str) -> http.client.HTTPResponse:
        connection = self._connect()
        connection.request("GET", f"/gradio_api/call/{name}/{event_id}")
        answer = connection.getresponse()
        self._open.append((connection, answer))
        return answer

    def drop(self) -> None:
        """Closes every stream."""
        for connection, answer in self._open:
            connection.close()
            if answer is not None:
                answer.close()
        self._open.clear()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self._server.url).netloc, timeout=SOON_S)


def wait_until(server: Server, true: Callable[[dict[str, Any]], bool]) -> None:
    """Waits for this state of the status."""
    deadline = time.monotonic() + SOON_S
    while not true(status := server.status()):
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


@pytest.fixture
def busy(client: Client, server: Server) -> Iterator[str]:
    """A run in progress until the test ends."""
    much = {"/steps/0/pipeline/arguments/num_images_per_prompt": 32}
    job = client.submit(
        workflow="text-to-image", variables=MANY, changes=much, api_name="/generate"
    )
    run_id = events_until(job, "step")[-1]["job_id"]
    yield run_id
    client.predict(job_id=run_id, api_name="/cancel_job")
    wait_until_idle(server)


@pytest.mark.parametrize("request_id", ["x" * 201, 2**64, [1], {"a": 1}])
def test_long_or_structured_request_id_is_refused(server: Server, request_id: Any) -> None:
    raw = Raw(server)
    data = [*GENERATE[:3], request_id, False, None]
    text = raw.stream("generate", raw.call("generate", data)).read().decode()
    raw.drop()
    assert "request_id has to be a text or a number of at most 200" in text


def wait_until_nothing_waits(server: Server, busy: str) -> None:
    """Waits until the queue is empty while the busy run continues."""
    wait_until(server, lambda status: status["queue"] == [])
    assert server.status()["running"]["run_id"] == busy


GENERATE = ["text-to-image", MANY, None, None, False, None]
TYPED = [MANY["prompt"], 4, 50, 2.5, None]


@pytest.mark.parametrize(("name", "data"), [("generate", GENERATE), ("run_text_to_image", TYPED)])
def test_dropped_streams_cancel_waiting_runs(
    server: Server, busy: str, name: str, data: list[Any]
) -> None:
    raw = Raw(server)
    for _ in range(3):
        raw.stream(name, raw.call(name, data))
    wait_until(server, lambda status: len(status["queue"]) == 3)
    raw.drop()
    wait_until_nothing_waits(server, busy)


@pytest.mark.parametrize(("name", "data"), [("generate", GENERATE), ("run_text_to_image", TYPED)])
def test_unopened_stream_cancels_waiting_run(
    server: Server, busy: str, name: str, data: list[Any]
) -> None:
    raw = Raw(server)
    raw.call(name, data)
    wait_until(server, lambda status: len(status["queue"]) == 1)
    wait_until_nothing_waits(server, busy)


def test_hang_up_cancels_run_of_direct_call(server: Server, busy: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=SOON_S)
    connection.request(
        "POST", "/gradio_api/run/run_text_to_image", json.dumps({"data": TYPED}),
        {"content-type": "application/json"},
    )  # fmt: skip
    wait_until(server, lambda status: len(status["queue"]) == 1)
    connection.close()
    wait_until_nothing_waits(server, busy)


@pytest.mark.usefixtures("busy")
def test_silent_stream_has_heartbeats(client: Client) -> None:
    job = client.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    assert events_until(job, "heartbeat")[0]["event"] == "queued"
    job.cancel()
