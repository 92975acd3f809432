"""Unauthenticated clients cannot read files of the host: each known attack, on a plain socket."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from tests.conftest import PROJECT
from tests.servers import Server
from tests.ui.raw_client import RawClient

RUN = "20260101-000000-abcdef"
RUNS = "/outputs/"
SECRET = "a-file-of-somebody-else"


@pytest.fixture(params=["a file in the working directory", "a foreign temporary file"])
def foreign(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An image of the host that is not the page's."""
    if request.param == "a file in the working directory":
        yield PROJECT / "docs" / "screenshot.png"
        return
    with tempfile.NamedTemporaryFile(prefix=SECRET, suffix=".png") as file:
        Image.new("RGB", (64, 64), "red").save(file, "PNG")
        file.flush()
        yield Path(file.name)


@pytest.fixture(scope="module")
def run_folder(server: Server) -> Path:
    folder = server.outputs / RUN
    folder.mkdir(parents=True)
    return folder


def file_data(path: object, **more: object) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def editor(path: object) -> dict[str, Any]:
    return {"background": str(path), "layers": [], "composite": str(path)}


KEPT: dict[str, Callable[[Path], tuple[str, Any]]] = {
    "a path": lambda path: ("variations", str(path)),
    "a file of Gradio's": lambda path: ("variations", file_data(path)),
    "the background of the mask editor": lambda path: ("inpaint", editor(path)),
    "files in the mask editor": lambda path: (
        "inpaint", {"background": file_data(path), "layers": [file_data(path)], "composite": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_stored_visit_names_no_file(client: RawClient, foreign: Path, kind: str) -> None:
    workflow, kept = KEPT[kind](foreign)
    opened, rendered = map(json.dumps, client.form(workflow, {"image": kept, "prompt": "typed"}))
    assert "file=" not in opened + rendered
    assert foreign.name not in rendered
    assert str(PROJECT) not in rendered


def test_typed_values_are_still_kept(client: RawClient) -> None:
    assert "what I typed" in json.dumps(client.form("variations", {"prompt": "what I typed"}))


@pytest.mark.parametrize(
    "visit",
    [None, 3, [], {"forms": 7}, {"person": "../../etc"}, {"__type__": "update", "value": 1},
     {"forms": {"variations": {"prompt": {"deep": [1]}}}}, {"workflow": ["x"]}],
)  # fmt: skip
def test_malformed_visit_is_replaced(client: RawClient, visit: Any) -> None:
    messages = client.call(client.function("open_page")["id"], [visit])
    done = next(each for each in messages if each["msg"] == "process_completed")
    assert done["success"]


def test_existence_of_path_is_not_revealed(client: RawClient, foreign: Path) -> None:
    """Existing and missing files get equal answers to a visit, an input and a URL."""
    missing = foreign.with_name("not-there.png")

    def answers(path: Path) -> list[Any]:
        served = client.ask(f"/gradio_api/file={quote(str(path))}")
        return [served.status, served.text, given(client, path)]

    assert answers(foreign) == answers(missing)


def given(client: RawClient, path: Path) -> Any:
    """Returns the answer of a workflow's endpoint to this path as its image, without times and
    ids."""
    run = client.function("run_variations")
    values = [file_data(path) if place == 0 else None for place in range(len(run["inputs"]))]
    (done,) = (
        each for each in client.call(run["id"], values) if each["msg"] == "process_completed"
    )
    assert not done["success"]
    return done["output"]["error"]


def test_error_names_no_host_folder(client: RawClient, foreign: Path) -> None:
    said = given(client, foreign)
    assert str(PROJECT) not in said
    assert tempfile.gettempdir() not in said
    assert said == "This file is neither an upload nor a result of this page."


@pytest.mark.parametrize(
    "path",
    [".git/HEAD", "README.md", "models/shapes/preview.json", "/etc/hostname", "/proc/self/environ",
     "~/.bashrc", "//etc/hostname", "outputs/../README.md"],
)  # fmt: skip
def test_only_uploads_and_results_are_files(client: RawClient, path: str) -> None:
    for named in (path, str(PROJECT / path)):
        answer = client.ask(f"/gradio_api/file={quote(named)}")
        assert answer.status == 404


def test_caches_beside_results_are_not_served(
    client: RawClient, server: Server, run_folder: Path
) -> None:
    hidden = server.outputs / ".remembered" / "requests.json"
    hidden.parent.mkdir(exist_ok=True)
    hidden.write_text("{}")
    (run_folder / ".half-written").write_text("x")
    (run_folder / "link.png").symlink_to(PROJECT / "docs" / "screenshot.png")
    (run_folder / "good.png").write_bytes((PROJECT / "docs" / "screenshot.png").read_bytes())
    for path in (
        hidden, run_folder, run_folder / ".half-written", run_folder / "link.png",
        server.outputs / "other" / ".." / RUN / "good.png", server.outputs / "loose.png",
    ):  # fmt: skip
        assert client.ask(f"/gradio_api/file={quote(str(path))}").status == 404, path
    assert client.ask(f"/gradio_api/file={quote(str(run_folder / 'good.png'))}").status == 200


@pytest.mark.parametrize("suffix", [".html", ".svg", ".xml", ".xhtml", ".js", ".pdf", ""])
def test_results_with_possible_scripts_are_attachments(
    client: RawClient, run_folder: Path, suffix: str
) -> None:
    (run_folder / f"page{suffix}").write_text("<script>fetch('/')</script>")
    answer = client.ask(f"/gradio_api/file={quote(str(run_folder / f'page{suffix}'))}")
    assert answer.status == 200
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_old_file_route_is_closed(client: RawClient, run_folder: Path) -> None:
    (run_folder / "text.html").write_text("<script></script>")
    for path in (str(run_folder / "text.html"), "http://127.0.0.1/x", "https://example.com/"):
        assert client.ask(f"/gradio_api/file/{quote(path)}").status == 404
        assert client.ask(f"/gradio_api/proxy={quote(path)}").status == 404
    for url in (client.url, "https://example.com/x", "file:///etc/hostname"):
        assert client.ask(f"/gradio_api/file={url}").status == 404


@pytest.mark.parametrize(
    "asked", ["bytes=1-2-3", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-1", "bytes=99999999999-",
              "bytes=0-0,5-6", "nonsense", "bytes=0-3"],
)  # fmt: skip
def test_range_answer_has_only_listed_headers(
    client: RawClient, server: Server, run_folder: Path, asked: str
) -> None:
    (run_folder / "ranged.txt").write_text("0123456789")
    before = server.log.read_text().count("Traceback")
    answer = client.ask(
        f"/gradio_api/file={quote(str(run_folder / 'ranged.txt'))}",
        headers={"Range": asked, "Cookie": "access-token=secret", "X-Mine": "secret"},
    )
    assert answer.status in {200, 206, 400, 416}
    assert "secret" not in json.dumps(dict(answer.headers))
    assert answer.headers.keys() <= {
        "accept-ranges", "content-disposition", "content-length", "content-range", "content-type",
        "content-security-policy", "cross-origin-resource-policy", "date", "etag", "last-modified",
        "referrer-policy", "x-content-type-options",
    }  # fmt: skip
    if asked == "bytes=0-3":
        assert (answer.status, answer.body) == (206, b"0123")
    assert server.log.read_text().count("Traceback") == before


def test_file_like_data_of_run_is_not_served(client: RawClient, server: Server) -> None:
    """A workflow whose result looks like a Gradio file once `changes` are applied."""
    looks = file_data(PROJECT / "README.md", url=None, orig_name="x")
    document = {
        "id": "data",
        "steps": [
            {
                "name": "gather",
                "task": {
                    "command": "gather_inputs",
                    "arguments": {"path": "x", "meta": {"_type": "x"}},
                },
            }
        ],
    }
    (server.workflows / "data.json").write_text(json.dumps(document))
    generate = client.function("generate")
    changes = {
        "/steps/0/task/arguments/path": looks["path"],
        "/steps/0/task/arguments/meta/_type": "gradio.FileData",
    }
    messages = client.call(generate["id"], ["data", {}, None, None, False, changes])
    told = json.dumps(messages)
    assert '"event": "done"' in told
    assert looks["path"] in told
    assert "file=/" not in told.replace(f"file={server.outputs}", "")
    assert looks["meta"] not in _metas(messages)


def _metas(value: Any) -> list[Any]:
    """Returns the marks of everything that is sent as a file, except results of the run."""
    if isinstance(value, list):
        return [found for each in value for found in _metas(each)]
    if not isinstance(value, dict):
        return []
    own = [value["meta"]] if "meta" in value and RUNS not in str(value.get("path")) else []
    return own + [found for each in value.values() for found in _metas(each)]
