"""Reports of runs to a server that the request names: signed, retried, and nowhere else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from app.errors import FetchError
from app.media.fetch import Unreachable, send
from tests.api.test_rest import FEW, RUNS, error_of
from tests.loopback import Handler, Loopback
from tests.ui.serving import served

SECRET = "a-secret-of-some-length"


class Received(NamedTuple):
    """A report that came."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver(Loopback):
    """Takes reports; answers each path with its statuses, one after another, and then 204."""

    def __init__(self) -> None:
        self.received: queue.Queue[Received] = queue.Queue()
        self.statuses: dict[str, list[int]] = {}
        super().__init__(_Handler)

    def next(self) -> Received:
        return self.received.get(timeout=60)


class _Handler(Handler):
    served: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.served.statuses.get(self.path, [])
        self.send_response(status.pop(0) if status else 204)
        self.send_header("Location", self.served.address + "/elsewhere")
        self.end_headers()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.served.received.put(Received(self.path, headers, body))

    do_GET = do_POST


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def reporting(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> Iterator[httpx.Client]:
    """A client of a server that may report to the receiver."""
    hosts = f"127.0.0.1:{receiver.port} hooks.example.org"
    folder = tmp_path_factory.mktemp("reporting")
    with (
        served(folder, DW_WEBHOOK_HOSTS=hosts, DW_WEBHOOK_SECRET=SECRET) as page,
        httpx.Client(base_url=page.url, timeout=120) as client,
    ):
        yield client


def test_end_of_run_is_reported_and_signed(reporting: httpx.Client, receiver: Receiver) -> None:
    body = {"inputs": FEW, "seed": 7, "webhook": f"{receiver.address}/hook?id=1"}
    run_id = reporting.post(RUNS, json=body).json()["run_id"]
    report = receiver.next()
    assert report.path == "/hook?id=1"
    assert json.loads(report.body)["run"] == reporting.get(f"/v1/runs/{run_id}").json()
    assert json.loads(report.body)["run"]["state"] == "succeeded"
    assert report.headers["webhook-id"] == run_id
    signed = f"{run_id}.{report.headers['webhook-timestamp']}.".encode() + report.body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert report.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_report_is_sent_again_after_a_failure(reporting: httpx.Client, receiver: Receiver) -> None:
    receiver.statuses["/busy"] = [503]
    answer = reporting.post(RUNS, json={"inputs": FEW, "webhook": f"{receiver.address}/busy"})
    first, second = receiver.next(), receiver.next()
    assert (first.path, first.body) == (second.path, second.body)
    assert json.loads(first.body)["run"]["run_id"] == answer.json()["run_id"]


def test_redirect_is_not_followed_and_a_refusal_is_final(
    reporting: httpx.Client, receiver: Receiver
) -> None:
    receiver.statuses |= {"/moved": [307], "/gone": [410]}
    for path in ("/moved", "/gone", "/last"):
        body = {"inputs": FEW, "seed": 7, "webhook": f"{receiver.address}{path}"}
        reporting.post(f"{RUNS}?wait=60", json=body)
        assert receiver.next().path == path
    assert receiver.received.empty()


def test_repeated_request_is_reported_once(reporting: httpx.Client, receiver: Receiver) -> None:
    body = {"inputs": FEW, "seed": 7, "webhook": f"{receiver.address}/once"}
    for _ in range(2):
        reporting.post(f"{RUNS}?wait=60", json=body, headers={"Idempotency-Key": "once"})
    assert receiver.next().path == "/once"
    reporting.post(f"{RUNS}?wait=60", json={**body, "webhook": f"{receiver.address}/last"})
    assert receiver.next().path == "/last"


@pytest.mark.parametrize(
    "url",
    ["https://example.org/hook", "http://127.0.0.1:9/hook", "http://hooks.example.org:8080/hook",
     "http://169.254.169.254/latest", "ftp://hooks.example.org/", "hook", "",
     "http://me:secret@hooks.example.org/"],
)  # fmt: skip
def test_other_addresses_are_refused(reporting: httpx.Client, url: str) -> None:
    error = error_of(reporting.post(RUNS, json={"inputs": FEW, "webhook": url}), 422)
    assert (error["kind"], error["place"]) == ("InvalidInputs", "webhook")


def test_allowed_name_must_lead_to_a_public_address(receiver: Receiver) -> None:
    with pytest.raises(FetchError, match="not the name of a public server"):
        send("http://localhost/hook", b"{}", {})
    with pytest.raises(FetchError, match="not a public address"):
        send("http://127.0.0.1/hook", b"{}", {})
    with receiver.gone(), pytest.raises(Unreachable, match="could not be called"):
        send(f"{receiver.address}/x", b"{}", {}, hosts=(f"127.0.0.1:{receiver.port}",))


def test_server_without_secret_sends_none(rest: httpx.Client) -> None:
    body = {"inputs": FEW, "webhook": "https://hooks.example.org/"}
    error = error_of(rest.post(RUNS, json=body), 422)
    assert error["problems"][0]["message"] == "This server sends no webhooks."
