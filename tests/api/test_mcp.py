"""The tools for assistants, by the client of the package `mcp`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from tests.servers import Server
from tests.site import picture
from tests.test_layering import loaded_by
from tests.ui.routes_of_the_page import SCRIPT
from tests.ui.serving import Served, served

TOKEN = "a-token-of-some-length"
PROMPT = "a red circle on a white background"
FEW = {"prompt": PROMPT, "steps": 2}
MANY = {"prompt": PROMPT, "steps": 50, "pictures": 4}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("mcp"), DW_API_TOKEN=TOKEN) as page:
        yield page


@asynccontextmanager
async def client_of(page: Served, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(headers=headers, timeout=120) as http:
        transport = streamable_http_client(f"{page.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


def text_of(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


async def told(client: Client, tool: str, **arguments: Any) -> Any:
    """Returns the JSON that the tool tells."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return json.loads(text_of(result))


async def error_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return text_of(result)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_assistant_finds_and_runs_a_workflow(page: Served, mode: str) -> None:
    """With the handshake of older clients too."""
    async with client_of(page, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == [
            "list_workflows", "describe_workflow", "run_workflow", "run_status", "cancel_run",
        ]  # fmt: skip
        assert tools["run_workflow"].input_schema["required"] == ["workflow"]
        names = [each["name"] for each in await told(client, "list_workflows")]
        assert names[0] == "text-to-image"
        described = await told(client, "describe_workflow", name=names[0])
        assert [each["name"] for each in described["inputs"]][:2] == ["prompt", "pictures"]

        inputs = {**FEW, "pictures": 2}
        result = await client.call_tool(
            "run_workflow", {"workflow": names[0], "inputs": inputs, "seed": 7, "wait_s": 120}
        )
        summary = json.loads(text_of(result))
        assert (summary["state"], summary["seed"]) == ("succeeded", 7)
        assert [each["content_type"] for each in summary["results"]] == ["image/png"] * 2
        images = result.content[1:]
        assert len(images) == 2
        for image in images:
            assert isinstance(image, types.ImageContent)
            assert image.mime_type == "image/png"
            with Image.open(io.BytesIO(base64.b64decode(image.data))) as drawn:
                assert drawn.size == (128, 128)


async def test_image_is_given_as_data(page: Served) -> None:
    data = base64.b64encode(picture("red", 128)).decode()
    inputs = {"image": f"data:image/png;base64,{data}", "prompt": PROMPT, "steps": 2}
    async with client_of(page) as client:
        told_of = await told(client, "run_workflow", workflow="variations", inputs=inputs,
                             wait_s=120)  # fmt: skip
        assert told_of["state"] == "succeeded"
        inputs["image"] = "/etc/passwd"
        wrong = await error_of(client, "run_workflow", workflow="variations", inputs=inputs)
        assert "not a path" in wrong


async def test_long_run_is_followed_and_cancelled(page: Served) -> None:
    async with client_of(page) as client:
        begun = await told(client, "run_workflow", workflow="text-to-image", inputs=MANY, wait_s=0)
        assert "run_status" in begun["next"]
        run_id = begun["run_id"]
        status = await told(client, "run_status", run_id=run_id)
        assert status["run_id"] == run_id
        result = await client.call_tool("cancel_run", {"run_id": run_id})
        assert text_of(result) == "The run is being cancelled."
        assert "cancelled" in await error_of(client, "run_status", run_id=run_id, wait_s=60)
        result = await client.call_tool("cancel_run", {"run_id": run_id})
        assert text_of(result) == "The run was over already."


async def test_errors_are_sentences(page: Served) -> None:
    async with client_of(page) as client:
        assert "Did you mean 'text-to-image'?" in await error_of(
            client, "run_workflow", workflow="text-to-imag"
        )
        wrong = await error_of(
            client, "run_workflow", workflow="text-to-image", inputs={"steps": 10_000}
        )
        assert "inputs.steps" in wrong
        assert "workflow: It is missing." in await error_of(client, "run_workflow")
        assert "run_id" in await error_of(client, "run_status", run="x")
        assert "There is no run" in await error_of(client, "cancel_run", run_id="x")
        assert "There is no tool" in await error_of(client, "no_tool")


async def test_call_that_is_cut_off_cancels_its_run(page: Served) -> None:
    body = {"workflow": "text-to-image", "inputs": MANY, "wait_s": 100}
    async with client_of(page) as client:
        with pytest.raises(Exception, match=r"[Tt]imed out"):
            await client.call_tool("run_workflow", body, read_timeout_seconds=1.5)
    async with httpx.AsyncClient(base_url=page.url, timeout=90) as rest:
        newest = (await rest.get("/v1/status")).json()["runs"][0]["run_id"]
        report = await rest.get(f"/v1/runs/{newest}?wait=60")
        assert report.json()["state"] == "cancelled"


def test_plain_http_lists_the_tools(page: Served) -> None:
    """As the guide's curl does, without a handshake."""
    headers = {**ACCEPT, "Authorization": f"Bearer {TOKEN}"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = httpx.post(f"{page.url}/mcp", json=body, headers=headers)
    assert (answer.status_code, "list_workflows" in answer.text) == (200, True)


# --- who may call --------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_token_is_needed(page: Served, headers: dict[str, str]) -> None:
    """Also on a page that needs no login."""
    answer = httpx.post(f"{page.url}/mcp", json=PING, headers={**ACCEPT, **headers})
    assert answer.status_code == 401
    assert answer.json()["error"]["kind"] == "NotLoggedIn"


def test_other_sites_and_methods_are_refused_by_the_guard(page: Served) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}
    assert httpx.post(f"{page.url}/mcp", json=PING, headers=headers).status_code == 403
    assert httpx.get(f"{page.url}/mcp").status_code == 405


def test_without_a_token_there_is_no_mcp(server: Server) -> None:
    answer = httpx.post(f"{server.url}/mcp", json=PING, headers=ACCEPT)
    assert answer.status_code == 404
    assert "DW_API_TOKEN" in answer.json()["error"]["message"]


# --- the package ---------------------------------------------------------------------------------


def test_package_is_not_imported_at_the_start() -> None:
    """Nor by Gradio, which has a server of its own."""
    loaded = loaded_by(SCRIPT)
    assert "gradio" in loaded
    assert "mcp" not in loaded


HIDING = """
import sys

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name == "mcp":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hiding())
"""


def test_server_starts_without_the_package(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    with served(tmp_path, DW_API_TOKEN=TOKEN, PYTHONPATH=str(tmp_path)) as page:
        headers = {**ACCEPT, "Authorization": f"Bearer {TOKEN}"}
        answer = httpx.post(f"{page.url}/mcp", json=PING, headers=headers)
        assert answer.status_code == 404
        assert "pip install mcp==" in answer.json()["error"]["message"]
    assert (
        "There is no /mcp: the package mcp is not installed."
        in (tmp_path / "server.log").read_text()
    )
