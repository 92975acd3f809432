"""The page's form obeys a guest's limits; by the socket, as a browser sends it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import CHOSEN_MODEL, Server
from tests.ui.raw_client import RawClient

FOREIGN = "No workflow here names the model 'unlisted/model'"


@pytest.fixture
def chosen(server: Server) -> Iterator[str]:
    """A workflow whose form asks for a model."""
    file = server.workflows / "chosen.json"
    file.write_text(json.dumps(CHOSEN_MODEL))
    yield file.stem
    file.unlink()


def generate(visitor: RawClient, workflow: str, value: Any) -> str:
    """Opens the page with this workflow and presses Generate with this value in every field;
    returns what the page is told."""
    _, rendered = visitor.form(workflow, {})
    events = next(
        message["output"]["render_config"]["dependencies"]
        for message in rendered
        if (message.get("output") or {}).get("render_config")
    )
    parts = visitor.ask("/config").json["components"]
    button = next(part["id"] for part in parts if part["props"].get("elem_id") == "generate")
    (pressed,) = (event for event in events if [button, "click"] in event["targets"])
    fields = [value for _ in pressed["inputs"][2:]]
    return html.unescape(json.dumps(visitor.call(pressed["id"], ["5", None, *fields])))


def test_guest_form_refuses_model_outside_catalog(server: Server, chosen: str) -> None:
    guest = RawClient(server.url, **{"X-Forwarded-For": "203.0.113.9"})
    assert FOREIGN in generate(guest, chosen, "unlisted/model")
    # An operator may, and the catalog's own model is allowed for guests: the hub is unreachable
    # here.
    for visitor, model in ((RawClient(server.url), "unlisted/model"), (guest, "example/named")):
        told = generate(visitor, chosen, model)
        assert "No workflow here names the model" not in told
        assert '"success": true' in told
