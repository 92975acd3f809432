"""Requests that are sent again with their Idempotency-Key."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.api.idempotency import KEPT_S, MAX_KEPT, SentRequests
from app.errors import QueueFull, ReusedKey
from tests.api.test_rest import FEW, RUNS, error_of


def test_same_request_with_its_key_gets_the_same_run(rest: httpx.Client) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    body = {"inputs": FEW, "fresh": True}
    with ThreadPoolExecutor(4) as clients:
        sent = [clients.submit(rest.post, RUNS, json=body, headers=key) for _ in range(4)]
    runs = {each.result().json()["run_id"] for each in sent}
    assert len(runs) == 1
    later = rest.post(f"{RUNS}?wait=60", json=body, headers=key)
    assert (later.status_code, later.json()["run_id"]) == (200, *runs)
    other = rest.post(RUNS, json={**body, "seed": 7}, headers=key)
    assert error_of(other, 422)["kind"] == "ReusedKey"
    guest = {**key, "X-Forwarded-For": "203.0.113.31"}
    assert {rest.post(RUNS, json=body, headers=guest).json()["run_id"]} != runs


def test_form_is_compared_by_the_content_of_its_files(rest: httpx.Client, picture: Path) -> None:
    address, key = "/v1/workflows/variations/runs", {"Idempotency-Key": secrets.token_hex(8)}

    def send(content: bytes) -> httpx.Response:
        files = {"image": ("a.png", content)}
        return rest.post(address, data={"steps": "2"}, files=files, headers=key)

    first, again = send(picture.read_bytes()), send(picture.read_bytes())
    assert first.json()["run_id"] == again.json()["run_id"]
    assert error_of(send(picture.read_bytes() + b"x"), 422)["kind"] == "ReusedKey"


def test_refused_request_may_be_corrected(rest: httpx.Client) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    wrong = rest.post(RUNS, json={"inputs": {"steps": 100}}, headers=key)
    assert error_of(wrong, 422)["kind"] == "InvalidInputs"
    assert rest.post(RUNS, json={"inputs": FEW, "seed": 7}, headers=key).status_code in {200, 202}
    for impossible in ("", "x" * 201):
        answer = rest.post(RUNS, json={}, headers={"Idempotency-Key": impossible})
        assert error_of(answer, 400)["kind"] == "MalformedBody"


async def test_kept_requests_are_bounded_in_time_and_number() -> None:
    now = 0.0
    sent = SentRequests(lambda: now)
    made: list[str] = []

    async def submit() -> str:
        made.append(f"run {len(made)}")
        return made[-1]

    assert await sent.once("me", "a", "1", submit) == "run 0"
    assert await sent.once("me", "a", "1", submit) == "run 0"
    with pytest.raises(ReusedKey):
        await sent.once("me", "a", "2", submit)
    now = KEPT_S + 1
    assert await sent.once("me", "a", "2", submit) == "run 1"
    for number in range(MAX_KEPT):
        await sent.once("me", str(number), "1", submit)
    assert await sent.once("me", "a", "2", submit) == made[-1]


async def test_failed_request_fails_those_that_wait_for_it() -> None:
    sent = SentRequests()
    begun = asyncio.Event()

    async def submit() -> str:
        await begun.wait()
        raise QueueFull("There is no room.")

    waiting = [asyncio.ensure_future(sent.once("me", "a", "1", submit)) for _ in range(2)]
    begun.set()
    assert all(
        isinstance(each, QueueFull)
        for each in await asyncio.gather(*waiting, return_exceptions=True)
    )
