"""Operators and guests at a real server: what each may run, see, cancel and free.

The tests connect by loopback, as operators do; a client with a proxy's header is a guest.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from tests.api.test_streams import MANY, events_until, wait_until_idle
from tests.servers import CHOSEN_MODEL, Server

FEW = {"prompt": "a red circle on a white background", "steps": 2}
AT = "/steps/0/pipeline/arguments"

Connect = Callable[[str], Client]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Makes clients of guests at these addresses; "" makes an operator's."""
    with contextlib.ExitStack() as clients:

        def one(address: str) -> Client:
            headers = {"X-Forwarded-For": address} if address else {}
            client = Client(server.url, verbose=False, analytics_enabled=False, headers=headers)
            clients.callback(client.close)
            return client

        yield one
    wait_until_idle(server)


def run(client: Client, changes: dict[str, Any], **variables: Any) -> dict[str, Any]:
    done = client.predict(
        workflow="text-to-image",
        variables={**FEW, **variables},
        changes=changes,
        api_name="/generate",
    )
    assert isinstance(done, dict)
    return done


def test_changes_of_guest_are_limited(connect: Connect) -> None:
    guest, operator = connect("203.0.113.1"), connect("")
    small = {f"{AT}/width": 64, f"{AT}/height": 64}
    assert run(guest, small)["event"] == "done"
    with pytest.raises(AppError, match="pixels would be drawn"):
        run(guest, {f"{AT}/width": 8192, f"{AT}/height": 8192})
    with pytest.raises(AppError, match="100 is outside 1 to"):
        run(guest, {f"{AT}/num_images_per_prompt": 100})
    model = {"/steps/0/pipeline/from_pretrained_arguments/variant": "fp16"}
    with pytest.raises(AppError, match="Only values below the arguments"):
        run(guest, model)
    assert run(operator, {"/seed": 5})["seed"] == 5


def test_model_of_guest_must_be_in_catalog(connect: Connect, server: Server) -> None:
    (server.workflows / "chosen.json").write_text(json.dumps(CHOSEN_MODEL))

    def load(client: Client, model: str) -> None:
        client.predict(workflow="chosen", variables={"model": model}, api_name="/generate")

    with pytest.raises(AppError, match="No workflow here names the model 'unlisted/model'"):
        load(connect("203.0.113.1"), "unlisted/model")
    # The hub is unreachable: only the permission to ask it matters.
    for client, model in ((connect("203.0.113.1"), "example/named"), (connect(""), "my/model")):
        with pytest.raises(AppError) as failed:
            load(client, model)
        assert "No workflow here names" not in str(failed.value)
    (server.workflows / "chosen.json").unlink()


def test_status_hides_other_run_ids_from_guests(
    connect: Connect,
) -> None:
    anna, ben, operator = connect("203.0.113.1"), connect("203.0.113.2"), connect("")
    job = anna.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    run_id = events_until(job, "step")[-1]["job_id"]

    def running(client: Client) -> tuple[str, bool]:
        status = client.predict(api_name="/status")
        assert anna.session_hash not in json.dumps(status)
        assert "owner" not in status["running"]
        assert status["slots"][0]["running"] == status["running"]
        return status["running"]["run_id"], status["running"]["mine"]

    assert running(anna) == (run_id, True)
    assert running(ben) == ("", False)
    assert running(operator) == (run_id, False)
    anna.predict(job_id=run_id, api_name="/cancel_job")


def test_job_id_is_enough_to_cancel(connect: Connect) -> None:
    one, other = connect("203.0.113.1"), connect("203.0.113.7")
    job = one.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    run_id = events_until(job, "step")[-1]["job_id"]
    assert other.predict(job_id=run_id, api_name="/cancel_job") is True
    assert events_until(job, "cancelled")


@pytest.mark.parametrize("mode", ["when_idle", "cancel_and_free"])
def test_guest_cannot_free_memory_of_others(connect: Connect, mode: str) -> None:
    guest, operator = connect("203.0.113.1"), connect("")
    job = operator.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    events_until(job, "step")
    with pytest.raises(AppError, match="Runs of other people are in progress"):
        guest.predict(mode=mode, api_name="/free_gpu")
    assert operator.predict(mode="cancel_and_free", api_name="/free_gpu")["sentence"]
    assert guest.predict(api_name="/free_gpu")["sentence"]


def test_cached_result_hides_other_run_id_from_guest(connect: Connect) -> None:
    def remembered(client: Client, strength: float) -> dict[str, Any]:
        variables = {"prompt": "a blue star", "steps": 4, "strength": strength}
        events = list(
            client.submit(
                workflow="draw-then-outline", variables=variables, seed=5, api_name="/generate"
            )
        )
        assert events[-1]["event"] == "done"
        return next((event for event in events if event["event"] == "remembered"), {})

    anna, ben = connect("203.0.113.1"), connect("203.0.113.2")
    remembered(anna, 0.9)
    assert remembered(anna, 0.8)["made_by"] != ""
    assert remembered(ben, 0.7)["made_by"] == ""


def test_waiting_runs_of_guest_are_limited(connect: Connect, server: Server) -> None:
    guest, other, operator = connect("203.0.113.1"), connect("203.0.113.2"), connect("")
    first = operator.submit(workflow="text-to-image", variables=MANY, api_name="/generate")
    events_until(first, "step")

    def submit(client: Client) -> Any:
        return client.submit(workflow="text-to-image", variables=MANY, api_name="/generate")

    jobs = [submit(guest) for _ in range(3)]
    for job in jobs:
        events_until(job, "queued")
    with pytest.raises(AppError, match="3 of your runs are waiting already"):
        run(guest, {}, steps=7)
    events_until(submit(other), "queued")
    for waiting in server.status()["queue"]:
        operator.predict(job_id=waiting["run_id"], api_name="/cancel_job")
    operator.predict(mode="cancel_and_free", api_name="/free_gpu")
