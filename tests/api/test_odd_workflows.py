"""A server with a folder of all files that once kept the page from starting."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from app.settings import PROJECT
from tests.servers import Server, started_server

CAT, DOG = "\N{CJK UNIFIED IDEOGRAPH-732B}", "\N{CJK UNIFIED IDEOGRAPH-72AC}"
VARIABLES = {
    "from": "a red circle on a white background", "lambda": 2.5, "request": 2, "api_name": "png",
    "guidance-scale": 2.5, "guidance_scale": 2.5,
}  # fmt: skip


def drawing(prompt: str = "a red circle", **changes: Any) -> dict[str, Any]:
    """Returns a document of one step for the bundled model."""
    pipeline = {
        "configuration": {"component_type": "StableDiffusionPipeline"},
        "from_pretrained_arguments": {"model_name": str(PROJECT / "models" / "shapes")},
        "arguments": {"prompt": prompt, "num_inference_steps": 1},
    }
    step = {"name": "draw", "pipeline": pipeline, "result": {"content_type": "image/png"}}
    return {"id": "drawing", "steps": [step], **changes}


def fill(workflows: Path) -> None:
    """Writes the odd files."""
    keywords = drawing("variable:from", variables=VARIABLES)
    keywords["steps"][0]["pipeline"]["arguments"] |= {
        "guidance_scale": "variable:lambda", "num_inference_steps": "variable:request",
    }  # fmt: skip
    files: dict[str, Any] = {
        "keyword": keywords,
        CAT: drawing("a blue circle"),
        DOG: drawing("a green circle"),
        "line\nbreak\u202e": drawing(id="two\nlines\u202e"),
        "text-to-image": drawing(),
        "ten-thousand-steps": {"id": "x", "steps": [{"name": str(n)} for n in range(10_000)]},
        "large-number": drawing(variables={"number": 2**64}),
    }
    for name, document in files.items():
        (workflows / f"{name}.json").write_text(json.dumps(document))
    (workflows / "empty.json").touch()
    (workflows / "folder.json").mkdir()
    (workflows / "gone.json").symlink_to(workflows / "nothing")
    (workflows / "outside.json").symlink_to("/etc/passwd")
    with (workflows / "large.json").open("wb") as sparse:
        sparse.truncate(51 * 1024 * 1024)
    (workflows / os.fsdecode(b"caf\xe9.json")).write_text("{}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_server(tmp_path_factory.mktemp("odd"), fill) as server:
        yield server


@pytest.fixture(scope="module")
def listed(server: Server) -> dict[str, dict[str, Any]]:
    """Returns the entry of each file in `list_workflows`, by name."""
    client = Client(server.url, verbose=False, analytics_enabled=False)
    found = client.predict(api_name="/list_workflows")
    client.close()
    return {entry["name"]: entry for entry in found}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("empty", "not valid JSON"),
        ("folder", "is no file"),
        ("gone", "cannot be read"),
        ("outside", "a link to a file outside its folder"),
        ("large", "larger than 50 MiB"),
        ("caf", "not UTF-8"),
        ("large-number", "a whole number outside"),
    ],
)
def test_odd_file_is_listed_with_problem(
    listed: dict[str, dict[str, Any]], name: str, told: str
) -> None:
    assert told in listed[name]["problem"]
    assert listed[name]["endpoint"] is None


def test_valid_files_have_endpoints(listed: dict[str, dict[str, Any]]) -> None:
    assert listed["text-to-image"]["endpoint"] == "/run_text_to_image"
    assert listed["text-to-image"]["title"] == "Text to image"
    assert listed[CAT]["endpoint"] == f"/run_{CAT}"
    assert listed[DOG]["endpoint"] == f"/run_{DOG}"
    assert listed["line-break"]["title"] == "two lines"
    (own,) = [name for name in listed if name.startswith("text-to-image-")]
    assert listed[own]["problem"] is None


def test_endpoint_name_in_other_script_runs_its_file(server: Server, client: Client) -> None:
    done = client.predict(api_name=f"/run_{CAT}", seed=1)
    assert "a blue circle" in Path(done["metadata"][0]).read_text()
    request = urllib.request.Request(
        f"{server.url}/gradio_api/call/run_{urllib.parse.quote(CAT)}",
        data=b'{"data": [1]}',
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(
        f"{server.url}/gradio_api/call/run_{urllib.parse.quote(CAT)}/{event}", timeout=60
    ) as stream:
        assert '"workflow": "' in stream.read().decode()


def test_page_is_served_beside_odd_files(server: Server) -> None:
    with urllib.request.urlopen(server.url, timeout=30) as page:
        assert page.status == 200


def test_endpoint_stays_with_file_when_others_are_added(server: Server, client: Client) -> None:
    for name in ("Keyword", "key word", f"{CAT}!"):
        (server.workflows / f"{name}.json").write_text(json.dumps(drawing()))
    described = client.predict(name="keyword", api_name="/describe_workflow")
    assert [spec["name"] for spec in described["inputs"]] == list(VARIABLES)
    assert described["endpoint"] == "/run_keyword"
    done = client.predict(api_name=f"/run_{CAT}", seed=1)
    assert done["workflow"] == CAT


def test_invalid_parameter_names_are_replaced(client: Client) -> None:
    described = client.predict(name="keyword", api_name="/describe_workflow")
    parameters = {spec["name"]: spec["parameter"] for spec in described["inputs"]}
    assert parameters == {
        "from": "from_", "lambda": "lambda_", "request": "request_", "api_name": "api_name_",
        "guidance-scale": "guidance_scale_2", "guidance_scale": "guidance_scale",
    }  # fmt: skip
    done = client.predict(from_="a blue star", lambda_=1.5, request_=1, api_name="/run_keyword")
    assert done["variables"] == VARIABLES | {"from": "a blue star", "lambda": 1.5, "request": 1}


@pytest.mark.parametrize("name", ["a\nb\u202e", "x" * 100_000, 3, None, ["a"]])
def test_unknown_workflow_is_reported_briefly(client: Client, name: Any) -> None:
    with pytest.raises(AppError, match="There is no workflow") as caught:
        client.predict(name=name, api_name="/describe_workflow")
    assert len(str(caught.value)) < 2000
