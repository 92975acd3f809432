"""No body is a fault of the interfaces that imitate other programs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.test_rest import JSON
from tests.servers import Server

SENT = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORDS = st.sampled_from(["variations", "x", "-1", "64x64", "auto", "eA==", "/etc/passwd", "http:"])
"""Without its picture the workflow `variations` cannot run."""
OPENAI = ("prompt", "n", "size", "response_format", "seed", "inputs", "image", "mask", "user")
A1111 = (
    "prompt", "negative_prompt", "steps", "cfg_scale", "width", "height", "seed", "batch_size",
    "n_iter", "sampler_name", "init_images", "mask", "denoising_strength", "override_settings",
    "alwayson_scripts",
)  # fmt: skip


def bodies(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    values = JSON | WORDS | st.lists(WORDS, max_size=2) | st.dictionaries(WORDS, WORDS, max_size=1)
    return st.dictionaries(st.sampled_from(names), values, max_size=5) | JSON


def send(rest: httpx.Client, path: str, body: Any) -> httpx.Response:
    return rest.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@SENT
@given(bodies(OPENAI), st.booleans())
def test_no_body_is_a_fault_of_openais_interface(
    rest: httpx.Client, body: Any, as_form: bool
) -> None:
    if isinstance(body, dict):
        body = {**body, "model": "variations"}
    if as_form and isinstance(body, dict):
        form = {name: json.dumps(value) for name, value in body.items()}
        files = {"image": b"none", "mask": b"none"}
        answer = rest.post("/v1/images/edits", data={**form, "model": "inpaint"}, files=files)
    else:
        answer = send(rest, "/v1/images/generations", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@SENT
@given(bodies(A1111), st.sampled_from(["txt2img", "img2img"]))
def test_no_body_is_a_fault_of_a1111s_interface(rest: httpx.Client, body: Any, path: str) -> None:
    answer = send(rest, f"/sdapi/v1/{path}?workflow=variations", body)
    assert answer.status_code in {400, 422}, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", ["/sdapi/v1/options", "/sdapi/v1/interrupt"])
@SENT
@given(body=bodies(("sd_model_checkpoint", "x")))
def test_no_body_is_a_fault_of_small_requests(rest: httpx.Client, path: str, body: Any) -> None:
    assert send(rest, path, body).status_code in {200, 400, 404, 422}


def test_log_has_no_traceback(rest: httpx.Client, server: Server) -> None:
    """After all of them."""
    assert rest.get("/healthz").status_code == 200
    assert "could not be answered" not in server.log.read_text()
