"""Streams of events, cancelling, status and freeing by the REST interface."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.api.test_rest import FEW, RUNS, error_of, run
from tests.api.test_streams import MANY
from tests.site import Site
from tests.ui.serving import served


def events_of(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields id and data of each event of a stream."""
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def follow(rest: httpx.Client, run_id: str, after: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Returns the run's events to the end."""
    headers = {"Last-Event-ID": after} if after else {}
    with rest.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events_of(answer))


def begun(rest: httpx.Client, **headers: str) -> str:
    """Returns the id of a long run that draws."""
    run_id = rest.post(RUNS, json={"inputs": MANY}, headers=headers).json()["run_id"]
    with rest.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        assert any(data["event"] == "step" for _, data in events_of(answer))
    return str(run_id)


def test_stream_tells_a_run_from_its_beginning_to_its_end(rest: httpx.Client) -> None:
    run_id = rest.post(RUNS, json={"inputs": FEW, "seed": 7, "fresh": True}).json()["run_id"]
    events = follow(rest, run_id)
    kinds = [data["event"] for _, data in events]
    assert kinds[0] == "queued"
    assert {"phase", "step", "result"} <= set(kinds)
    assert {data["run_id"] for _, data in events} == {run_id}
    assert events[-1][1]["event"] == "done"
    assert events[-1][1]["run"] == rest.get(f"/v1/runs/{run_id}").json()
    results = [data["result"] for _, data in events if data["event"] == "result"]
    assert results == events[-1][1]["run"]["results"]


def test_stream_goes_on_after_the_last_event_that_came(rest: httpx.Client) -> None:
    events = follow(rest, run(rest, inputs=FEW, seed=7, fresh=True)["run_id"])
    run_id = events[0][1]["run_id"]
    assert len({name for name, _ in events}) == len(events)
    for place in (0, 2, len(events) - 2):
        assert follow(rest, run_id, events[place][0]) == events[place + 1 :]
    over = rest.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": events[-1][0]})
    assert over.status_code == 204
    # Of another log, as before a restart: from the beginning.
    for foreign in ("123-4", "x", "-1", "5"):
        assert follow(rest, run_id, foreign) == events


def test_failed_run_ends_its_stream_with_the_error(rest: httpx.Client, site: Site) -> None:
    inputs = {"image": site.url("/missing.png"), "prompt": "a star"}
    answer = rest.post("/v1/workflows/variations/runs", json={"inputs": inputs})
    run_id = answer.json()["run_id"]
    last = follow(rest, run_id)[-1][1]
    assert (last["event"], last["error"]["kind"]) == ("error", "FetchError")
    assert last["error"] == rest.get(f"/v1/runs/{run_id}").json()["error"]
    assert error_of(rest.get("/v1/runs/x/events"), 404)["kind"] == "UnknownRun"


def test_delete_cancels_a_run(rest: httpx.Client) -> None:
    run_id = begun(rest)
    assert rest.delete(f"/v1/runs/{run_id}").status_code == 202
    events = follow(rest, run_id)
    assert events[-1][1]["event"] == "cancelled"
    over = rest.delete(f"/v1/runs/{run_id}")
    assert (over.status_code, over.json()["state"]) == (200, "cancelled")
    assert error_of(rest.delete("/v1/runs/x"), 404)["kind"] == "UnknownRun"


def test_leaving_a_stream_does_not_cancel(rest: httpx.Client) -> None:
    run_id = begun(rest)
    assert rest.get(f"/v1/runs/{run_id}").json()["state"] == "running"
    rest.delete(f"/v1/runs/{run_id}")
    follow(rest, run_id)


def test_workflows_are_listed_with_their_inputs(rest: httpx.Client) -> None:
    listed = rest.get("/v1/workflows").json()["workflows"]
    named = {each["name"]: each for each in listed}
    assert named["text-to-image"]["ready"] is True
    described = rest.get("/v1/workflows/text-to-image").json()
    assert named["text-to-image"].items() <= described.items()
    assert [each["name"] for each in described["inputs"]] == [
        "prompt", "pictures", "steps", "guidance_scale",
    ]  # fmt: skip
    assert error_of(rest.get("/v1/workflows/nothing"), 404)["kind"] == "UnknownWorkflow"


def test_status_shows_ids_of_own_runs_only(rest: httpx.Client) -> None:
    anna, ben = {"X-Forwarded-For": "203.0.113.21"}, {"X-Forwarded-For": "203.0.113.22"}
    run_id = begun(rest, **anna)

    def running(**headers: str) -> tuple[str, bool]:
        status = rest.get("/v1/status", headers=headers).json()
        return status["running"]["run_id"], status["running"]["mine"]

    assert running(**anna) == (run_id, True)
    assert running(**ben) == ("", False)
    assert running() == (run_id, False)
    answer = rest.post("/v1/free", json={"mode": "cancel_and_free"}, headers=ben)
    assert error_of(answer, 403)["kind"] == "NotAllowed"
    freed = rest.post("/v1/free", json={"mode": "cancel_and_free"})
    assert freed.status_code == 200
    assert freed.json()["sentence"].startswith("Freed ")
    assert rest.get(f"/v1/runs/{run_id}").json()["state"] == "cancelled"
    assert (
        rest.post("/v1/free").json()["sentence"] == "Nothing was held; there was nothing to free."
    )
    assert error_of(rest.post("/v1/free", json={"mode": "now"}), 400)["kind"] == "MalformedBody"


def test_open_requests_of_a_guest_are_limited(tmp_path: Path) -> None:
    with (
        served(tmp_path, DW_GUEST_CALLS="2") as page,
        httpx.Client(base_url=page.url, timeout=120) as rest,
        contextlib.ExitStack() as streams,
    ):
        guest = {"X-Forwarded-For": "203.0.113.41"}
        run_id = rest.post(RUNS, json={"inputs": MANY}, headers=guest).json()["run_id"]
        address = f"/v1/runs/{run_id}/events"
        # An iterator that is dropped closes its connection.
        kept = []
        for _ in range(2):
            stream = streams.enter_context(rest.stream("GET", address, headers=guest))
            kept.append(events_of(stream))
            next(kept[-1])
        for answer in (
            rest.get(f"/v1/runs/{run_id}", headers=guest),
            rest.get(address, headers=guest),
            rest.post(RUNS, json={}, headers=guest),
        ):
            assert error_of(answer, 429)["kind"] == "TooManyCalls"
        other = {"X-Forwarded-For": "203.0.113.42"}
        for headers in ({}, other):
            assert rest.get(f"/v1/runs/{run_id}", headers=headers).status_code == 200
        assert rest.delete(f"/v1/runs/{run_id}").status_code == 202
