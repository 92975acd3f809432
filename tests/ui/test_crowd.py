"""One guest cannot take what there is for all: at a small page of its own, over the socket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import PROJECT

MOST_CALLS, MOST_VISITS = 3, 5


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A page that counts per visit, and has calls that wait for ever."""
    command = [sys.executable, "-m", "tests.ui.small_page", str(MOST_CALLS), str(MOST_VISITS)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"{process.stdout.readline().strip()}/gradio_api"
        finally:
            process.kill()


def person(url: str, address: str) -> httpx.Client:
    """Somebody behind a proxy; "" is an operator of this machine."""
    headers = {"X-Forwarded-For": address} if address else {}
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)


def count(client: httpx.Client, visit: str) -> int:
    body = {"data": [None], "session_hash": visit}
    answer = client.post("/run/count", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["data"][1])


def test_many_visits_of_a_guest_end_nobody_else_s(url: str) -> None:
    with person(url, "203.0.113.1") as crowd, person(url, "203.0.113.2") as other:
        assert [count(other, "mine") for _ in range(2)] == [1, 2]
        for number in range(60):
            assert count(crowd, f"visit-{number}") == 1
        assert count(other, "mine") == 3
        # His own newest are kept.
        assert count(crowd, "visit-59") == 2
        assert count(crowd, "visit-0") == 1


def test_visits_of_operators_are_limited_by_the_total_alone(url: str) -> None:
    with person(url, "") as operator:
        for number in range(20):
            assert count(operator, f"own-{number}") == 1
        assert count(operator, "own-0") == 2


def test_calls_of_a_guest_that_wait_are_limited_and_leave_places_to_others(url: str) -> None:
    with person(url, "203.0.113.3") as crowd, person(url, "203.0.113.4") as other:
        answers = [crowd.post("/call/wait", json={"data": []}) for _ in range(10)]
        assert [each.status_code for each in answers] == [200] * 3 + [503] * 7
        assert "3 of your calls are waiting already" in answers[-1].json()["detail"]
        assert other.post("/call/wait", json={"data": []}).status_code == 200
        with person(url, "") as operator:
            assert all(
                operator.post("/call/wait", json={"data": []}).status_code == 200 for _ in range(10)
            )
        # One that is dropped makes room.
        event = answers[0].json()["event_id"]
        body = {"session_hash": event, "fn_index": 1, "event_id": event}
        assert crowd.post("/cancel", json=body).status_code == 200
        assert crowd.post("/call/wait", json={"data": []}).status_code == 200
