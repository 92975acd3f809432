"""Every example of docs/api.md is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.api.errors import KINDS, STATUS, status_of
from app.errors import ErrorReport
from app.settings import PROJECT
from tests.api.test_rest import FEW, RUNS, run
from tests.servers import Server
from tests.ui.serving import served

GUIDE = (PROJECT / "docs" / "api.md").read_text()
BLOCKS = [
    (f"{chapter.partition(chr(10))[0]} {number}", block)
    for chapter in GUIDE.split("\n## ")[1:]
    for number, block in enumerate(re.findall(r"^```sh\n(.*?)^```$", chapter, re.M | re.S), 1)
]
LOGIN = "Access 2"


def shell(commands: str, folder: Path, **environment: str) -> str:
    """Returns what the commands print; every curl fails by a status of 400 or more."""
    strict = f'curl() {{ command curl --fail-with-body "$@"; }}\n{commands}'
    done = subprocess.run(
        ["bash", "-eu", "-c", strict], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "block"), [each for each in BLOCKS if each[0] != LOGIN])
def test_commands_work(
    rest: httpx.Client, server: Server, picture: Path, name: str, block: str
) -> None:
    (picture.parent / "picture.png").write_bytes(picture.read_bytes())
    report = run(rest, inputs=FEW, seed=7)
    shell(
        block, picture.parent, URL=server.url, TOKEN="any", RUN=report["run_id"],
        RESULT=report["results"][0]["id"],
    )  # fmt: skip


def test_login_of_the_operator_works(tmp_path: Path) -> None:
    with served(tmp_path, DW_OPERATOR_AUTH="name:password") as page:
        told = shell(dict(BLOCKS)[LOGIN], tmp_path, URL=page.url)
    assert '"worker":' in told


def test_script_without_gradio_client_works(server: Server, tmp_path: Path) -> None:
    chapter = GUIDE.split("\n## Without gradio_client")[1]
    [script] = re.findall(r"^```python\n(.*?)^```$", chapter, re.M | re.S)
    script = script.replace("http://127.0.0.1:7860", server.url)
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=tmp_path, check=True)
    assert [file.suffix for file in tmp_path.glob("*.png")] == [".png"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_script_in_javascript_is_well_formed(tmp_path: Path) -> None:
    [script] = re.findall(r"^```js\n(.*?)^```$", GUIDE, re.M | re.S)
    file = tmp_path / "script.mjs"
    file.write_text(script)
    subprocess.run(["node", "--check", file], check=True)


def test_example_of_an_error_is_the_real_one(rest: httpx.Client) -> None:
    chapter = GUIDE.split("\n## Errors")[1]
    [example] = re.findall(r"^```json\n(.*?)^```$", chapter, re.M | re.S)
    assert rest.post(RUNS, json={"inputs": {"steps": 100}}).json() == json.loads(example)


def test_table_of_errors_has_their_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", GUIDE, re.M)
    told = {kind: int(status) for status, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert set(told.values()) == {*STATUS.values(), *KINDS}
    own = {each: status for status, each in KINDS.items()}
    for kind, status in told.items():
        if kind[0].isupper() and not kind.startswith("DW_"):
            found = own.get(kind) or status_of(ErrorReport(kind=kind, message=""))
            assert (kind, found) == (kind, status)
