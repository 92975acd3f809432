"""Malformed requests are answered in sentences, never in words of Python."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import ValidationError

from app.api.json_body import MAX_DEPTH
from tests.servers import Server

OF_PYTHON = re.compile(
    r"object at 0x|Input should be|Field required|Traceback|unable to parse|errors\.pydantic"
    r"|gradio\.components|Javascript"
)


def posted(server: Server, path: str, body: Any) -> tuple[int, str]:
    """Returns status and text of the answer to this body: bytes unchanged, else as JSON."""
    request = urllib.request.Request(
        f"{server.url}/gradio_api/{path}",
        data=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("queue/join", {}, "The request cannot be read. body.data: It is missing."),
        ("queue/join", [], "body: An object is needed, not []."),
        ("queue/join", b"{", "It is not JSON."),
        ("queue/join", {"data": "x", "fn_index": "a"}, "body.data: A list is needed, not 'x'."),
        ("run/status", {"data": {"a": 1}}, "body.data: A list is needed, not"),
        ("run/status", {"data": [], "session_hash": [1]}, "A text is needed, not [1]."),
        ("call/describe_workflow", {"data": 5}, "body.data: A list is needed, not 5."),
    ],
)
def test_malformed_request_is_refused_in_a_sentence(
    server: Server, path: str, body: Any, sentence: str
) -> None:
    status, text = posted(server, path, body)
    assert status == 422
    assert sentence in json.loads(text)["detail"][0]["message"]
    assert not OF_PYTHON.search(text)


def test_client_of_gradio_raises_the_sentence_of_a_call_that_cannot_be_read(
    client: Client,
) -> None:
    prompt: list[Any] = []
    for _ in range(MAX_DEPTH):
        prompt = [prompt]
    with pytest.raises(ValidationError, match=f"nested deeper than {MAX_DEPTH} levels"):
        client.predict("text-to-image", {"prompt": prompt}, api_name="/generate")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("describe_workflow", [], "'describe_workflow' takes 1 values, and 0 came."),
        ("generate", ["text-to-image", {}], "'generate' takes 6 values, and 2 came."),
        ("run_text_to_image", ["a"], "'run_text_to_image' takes 5 values, and 1 came."),
        ("describe_workflow", [{"a": [1]}], 'There is no workflow {"a": [1]}.'),
        ("describe_workflow", [None], "There is no workflow null."),
        ("generate", [["x"], {}, None, None, False, None], 'There is no workflow ["x"].'),
        ("generate", ["text-to-image", 5, None, None, False, None], "have to be an object"),
        ("generate", ["text-to-image", {}, {"a": 1}, None, False, None], "whole number, not {"),
        ("run_text_to_image", [{"a": 1}, [], {}, None, None], "A text is needed, not"),
        ("cancel_job", [{"a": []}], "There is no run"),
        ("free_gpu", [[1]], "The mode is one of"),
    ],
)
def test_call_with_wrong_values_is_answered_in_a_sentence(
    server: Server, name: str, data: list[Any], sentence: str
) -> None:
    status, text = posted(server, f"call/{name}", {"data": data})
    assert status == 200
    url = f"{server.url}/gradio_api/call/{name}/{json.loads(text)['event_id']}"
    with urllib.request.urlopen(url, timeout=60) as stream:
        told = stream.read().decode()
    assert "event: error" in told
    assert sentence in told.replace('\\"', '"')
    assert not OF_PYTHON.search(told)
