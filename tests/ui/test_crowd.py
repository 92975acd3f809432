"""Limits of one guest's calls and visits: at a small page, and at the real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.api.test_streams import MANY
from tests.conftest import PROJECT
from tests.ui.raw_client import Answer, RawClient, objects_in
from tests.ui.serving import served

MOST_CALLS, MOST_VISITS = 3, 5


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A page that counts per visit, with calls that never end."""
    command = [sys.executable, "-m", "tests.ui.small_page", str(MOST_CALLS), str(MOST_VISITS)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"{process.stdout.readline().strip()}/gradio_api"
        finally:
            process.kill()


def person(url: str, address: str) -> httpx.Client:
    """Returns a client behind a proxy; "" for an operator of this machine."""
    headers = {"X-Forwarded-For": address} if address else {}
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)


def count(client: httpx.Client, visit: str) -> int:
    body = {"data": [None], "session_hash": visit}
    answer = client.post("/run/count", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["data"][1])


def test_many_visits_of_guest_do_not_end_others(url: str) -> None:
    with person(url, "203.0.113.1") as crowd, person(url, "203.0.113.2") as other:
        assert [count(other, "mine") for _ in range(2)] == [1, 2]
        for number in range(60):
            assert count(crowd, f"visit-{number}") == 1
        assert count(other, "mine") == 3
        # The guest's own newest visits are kept.
        assert count(crowd, "visit-59") == 2
        assert count(crowd, "visit-0") == 1


def test_visits_of_operators_have_only_total_limit(url: str) -> None:
    with person(url, "") as operator:
        for number in range(20):
            assert count(operator, f"own-{number}") == 1
        assert count(operator, "own-0") == 2


def test_waiting_calls_of_guest_are_limited(url: str) -> None:
    with person(url, "203.0.113.3") as crowd, person(url, "203.0.113.4") as other:
        answers = [crowd.post("/call/wait", json={"data": []}) for _ in range(10)]
        assert [each.status_code for each in answers] == [200] * 3 + [503] * 7
        assert "3 of your calls are waiting already" in answers[-1].json()["detail"]
        assert other.post("/call/wait", json={"data": []}).status_code == 200
        with person(url, "") as operator:
            assert all(
                operator.post("/call/wait", json={"data": []}).status_code == 200 for _ in range(10)
            )
        # A dropped call makes room.
        event = answers[0].json()["event_id"]
        body = {"session_hash": event, "fn_index": 1, "event_id": event}
        assert crowd.post("/cancel", json=body).status_code == 200
        assert crowd.post("/call/wait", json={"data": []}).status_code == 200


# --- the server that people start ----------------------------------------------------------------


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with limits that a test can reach."""
    limits = {"DW_GUEST_CALLS": "2", "DW_GUEST_VISITS": "2"}
    with served(tmp_path_factory.mktemp("crowd"), **limits) as server:
        yield server.url


class Guest(RawClient):
    """A client behind a proxy."""

    def __init__(self, url: str, address: str) -> None:
        super().__init__(url)
        self._address = address

    def ask(
        self, path: str, method: str = "GET", *, headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Answer:  # fmt: skip
        shown = {"X-Forwarded-For": self._address, **(headers or {})}
        return super().ask(path, method, headers=shown, **more)


def event_of_a_form(guest: Guest) -> int:
    """Opens the page; returns the id of an event that only this visit's form has."""
    page = {each["id"] for each in guest.ask("/config").json["dependencies"]}
    _, rendered = guest.form("text-to-image", {})
    events = [each["id"] for each in objects_in(rendered) if each.get("backend_fn")]
    return next(event for event in reversed(events) if event not in page)


def is_known(guest: Guest, event: int) -> bool:
    body = {"data": [], "fn_index": event, "session_hash": guest.session}
    answer = guest.post("/gradio_api/queue/join", body)
    assert answer.status == 200 or "has expired" in answer.text
    return answer.status == 200


def test_server_drops_oldest_visit_of_guest_only(page_url: str) -> None:
    other, *own = [Guest(page_url, f"203.0.113.{number}") for number in (6, 5, 5, 5)]
    events = [event_of_a_form(each) for each in (other, *own)]
    known = [is_known(*each) for each in zip((other, *own), events, strict=True)]
    assert known == [True, False, True, True]


def test_server_limits_waiting_calls_per_guest(page_url: str) -> None:
    crowd, other = Guest(page_url, "203.0.113.7"), Guest(page_url, "203.0.113.8")
    call = {"data": ["text-to-image", MANY, None, None, False, None]}
    answers = [crowd.post("/gradio_api/call/generate", call) for _ in range(4)]
    assert [each.status for each in answers] == [200, 200, 503, 503]
    assert "2 of your calls are waiting already" in answers[-1].text
    assert other.post("/gradio_api/call/generate", call).status == 200
