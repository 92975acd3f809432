"""Who may talk to the page: names, origins, and the two proxies Gradio brings along."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from app.settings import UiSettings
from app.ui.guard import Guard, names_for, refusal

LOOPBACK = names_for(UiSettings())
SHARED = names_for(UiSettings(share=True))
EVERYWHERE = names_for(UiSettings(host="0.0.0.0", allowed_hosts=("draw.example.org",)))


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("page", headers={"access-control-allow-origin": "*"})


def page(settings: UiSettings = UiSettings()) -> httpx.AsyncClient:  # noqa: B008
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "OPTIONS"])])
    guarded = Guard(app, names=names_for(settings))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=guarded), base_url="http://127.0.0.1:7860"
    )


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"])
def test_a_loopback_page_answers_to_the_names_of_this_machine(host: str):
    assert refusal("/", host, None, LOOPBACK) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "192.168.1.5", "", "[::1"])
def test_a_loopback_page_turns_away_every_other_name(host: str):
    """So that a site that rebinds its name to 127.0.0.1 reaches nothing."""
    refused = refusal("/", host, None, LOOPBACK)
    assert refused is not None
    assert refused[0] == 421


def test_a_shared_page_answers_to_its_share_link_only():
    assert refusal("/", "abc.gradio.live", None, SHARED) is None
    assert refusal("/", "gradio.live.evil.example", None, SHARED) is not None
    assert refusal("/", "192.168.1.5:7860", None, SHARED) is not None


@pytest.mark.parametrize(
    "host", ["192.168.1.5:7860", "[fe80::1]:7860", "draw.example.org", "me-draw.hf.space"]
)
def test_a_page_on_every_interface_answers_to_addresses_and_given_names(host: str):
    assert refusal("/", host, None, EVERYWHERE) is None


def test_a_page_on_every_interface_turns_unknown_names_away():
    assert refusal("/", "evil.example", None, EVERYWHERE) is not None


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:7860"]
)
def test_requests_from_another_origin_are_refused(origin: str):
    refused = refusal("/gradio_api/upload", "127.0.0.1:7860", origin, LOOPBACK)
    assert refused is not None
    assert refused[0] == 403


def test_the_page_itself_may_ask():
    assert refusal("/x", "127.0.0.1:7860", "http://127.0.0.1:7860", LOOPBACK) is None


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://any.example/x",
        "/gradio_api/file=HTTPS://any.example/x",
        "/gradio_api/proxy=https://any.example/x",
        "/gradio_api/proxy=any.example/x",
    ],
)
def test_the_page_fetches_nothing_for_others(path: str):
    refused = refusal(path, "127.0.0.1:7860", None, LOOPBACK)
    assert refused is not None
    assert refused[0] == 404


def test_files_by_path_are_not_proxies():
    path = "/gradio_api/file=/outputs/20260101-000000-abcdef/a.png"
    assert refusal(path, "127.0.0.1:7860", None, LOOPBACK) is None


async def test_no_answer_gives_another_origin_leave_to_read_it():
    async with page() as client:
        response = await client.get("/")
    assert response.text == "page"
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"


async def test_a_served_file_never_runs_as_a_document_of_the_page():
    async with page() as client:
        response = await client.get("/gradio_api/file=/uploads/a.svg")
    assert response.headers["content-security-policy"] == "sandbox"


async def test_a_refusal_is_a_sentence():
    async with page() as client:
        foreign = await client.post("/upload", headers={"origin": "https://evil.example"})
        renamed = await client.get("/", headers={"host": "evil.example"})
    assert (foreign.status_code, foreign.text) == (403, "Requests from other sites are refused.")
    assert renamed.status_code == 421
    assert "evil.example" in renamed.text
    assert "DW_ALLOWED_HOSTS" in renamed.text
