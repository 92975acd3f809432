"""The REST interface by curl with a token, where a login is needed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_rest import FEW, RUNS
from tests.api.test_streams import MANY
from tests.ui.serving import Served, served

TOKEN = "a-token-of-some-length"
CURL = ("curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {TOKEN}")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("curl")
    with served(folder, DW_AUTH="me:a-long-password", DW_API_TOKEN=TOKEN) as page:
        yield page


def curl(*arguments: object) -> Any:
    """Returns the JSON that curl prints."""
    command = [*CURL, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def submitted(page: Served, inputs: dict[str, Any]) -> str:
    body = json.dumps({"inputs": inputs, "seed": 7, "fresh": True})
    run = curl(f"{page.url}{RUNS}", "--json", body)
    assert run["state"] != "failed"
    return f"{page.url}/v1/runs/{run['run_id']}"


def ids_of(stream: str) -> list[str]:
    return [line.removeprefix("id: ") for line in stream.splitlines() if line.startswith("id: ")]


def test_run_is_submitted_and_waited_for(page: Served, tmp_path: Path) -> None:
    report = curl(f"{submitted(page, FEW)}?wait=60")
    assert report["state"] == "succeeded"
    file = tmp_path / "drawn.png"
    subprocess.run([*CURL, "-o", file, page.url + report["results"][0]["url"]], check=True)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_file_is_uploaded(page: Served, picture: Path) -> None:
    form = ("-F", f"image=@{picture}", "-F", "prompt=a blue star", "-F", "steps=2")
    report = curl(f"{page.url}/v1/workflows/variations/runs?wait=60", *form)
    assert (report["state"], len(report["results"])) == ("succeeded", 1)


def test_stream_that_was_left_goes_on_after_its_last_event(page: Served) -> None:
    run = submitted(page, {**MANY, "pictures": 1})
    seen = ""
    with subprocess.Popen([*CURL, "-N", f"{run}/events"], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        while '"event": "step"' not in seen:
            seen += first.stdout.readline().decode()
        first.kill()
    last = ids_of(seen)[-1]
    resumed = [*CURL, "-N", "-H", f"Last-Event-ID: {last}", f"{run}/events"]
    rest = subprocess.run(resumed, capture_output=True, text=True, check=True).stdout
    whole = subprocess.run([*CURL, f"{run}/events"], capture_output=True, text=True, check=True)
    assert ids_of(seen) + ids_of(rest) == ids_of(whole.stdout)
    assert '"event": "done"' in rest


def test_run_is_cancelled_and_a_mistake_fails(page: Served) -> None:
    run = submitted(page, MANY)
    curl("-X", "DELETE", run)
    assert curl(f"{run}?wait=60")["state"] == "cancelled"
    refused = [*CURL, f"{page.url}{RUNS}", "--json", '{"inputs": {"steps": 99}}']
    done = subprocess.run(refused, capture_output=True, text=True, check=False)
    assert done.returncode == 22
    assert json.loads(done.stdout)["error"]["kind"] == "InvalidInputs"
