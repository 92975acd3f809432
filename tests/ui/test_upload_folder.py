"""Uploads at a running server, by the socket: counted, bounded together, complete or gone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app.api.upload_folder import FRESH_S
from app.janitor import clean
from app.settings import PROJECT
from app.ui.upload_folder import MAX_FILES
from tests.media.test_images import png_that_says
from tests.servers import Server, started_server

BOUND_BYTES = 3_000_000
WITHIN_S = 60.0


def until(what: Callable[[], object]) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for temporary files of the servers here."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DW_UPLOADS_BYTES", str(BOUND_BYTES))
        with started_server(tmp_path_factory.mktemp("server")) as server:
            yield server


@pytest.fixture
def uploads(server: Server, temporary: Path) -> Path:
    """The folder of uploads, emptied of old files."""
    (folder,) = temporary.glob("workbench-page-*")
    age(folder)
    return folder


def age(folder: Path) -> None:
    """Makes everything in the folder old enough to be removed."""
    for file in kept(folder):
        then = time.time() - 2 * FRESH_S
        os.utime(file, (then, then))


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def send(server: Server, *files: tuple[str, bytes]) -> httpx.Response:
    parts = [("files", (name, content)) for name, content in files]
    return httpx.post(f"{server.url}/gradio_api/upload", files=parts, timeout=60)


def test_request_with_many_files_is_refused_and_removed(server: Server, uploads: Path):
    before = set(kept(uploads))
    answer = send(server, *[(f"{number}.png", b"x") for number in range(MAX_FILES + 1)])
    assert (answer.status_code, f"Maximum number of files is {MAX_FILES}" in answer.text) == (
        400, True,
    )  # fmt: skip
    assert set(kept(uploads)) == before
    assert send(server, *[(f"{number}.png", b"x") for number in range(MAX_FILES)]).is_success


def test_uploads_have_total_limit_and_oldest_are_removed(server: Server, uploads: Path):
    first, second = bytes(1_400_000), b"2" * 1_400_000
    paths = [Path(json.loads(send(server, ("a.png", content)).content)[0])
             for content in (first, second)]  # fmt: skip
    refused = send(server, ("b.png", b"3" * 1_400_000))
    assert refused.status_code == 413
    assert refused.text == (
        "There is no room for this file: the uploads of all people together have reached their"
        " maximum allowed size of 3 MB. Try again in an hour."
    )
    assert all(path.is_file() for path in paths)
    assert not list(uploads.glob("tmp*"))
    then = time.time() - 2 * FRESH_S
    os.utime(paths[0], (then, then))
    assert send(server, ("b.png", b"3" * 1_400_000)).is_success
    assert [path.is_file() for path in paths] == [False, True]
    assert sum(path.stat().st_size for path in kept(uploads)) <= BOUND_BYTES


def test_broken_upload_leaves_no_file(server: Server, uploads: Path):
    address = urlsplit(server.url)
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address.netloc}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    )
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(head.encode() + bytes(200_000))
        until(lambda: list(uploads.glob("tmp*")))
    until(lambda: not list(uploads.glob("tmp*")))
    assert "Traceback" not in server.log.read_text()


def test_large_form_field_is_refused(server: Server, uploads: Path):
    answer = httpx.post(
        f"{server.url}/gradio_api/upload", data={"name": "x" * 2_000_000},
        files={"files": ("a.png", b"x")}, timeout=60,
    )  # fmt: skip
    assert answer.status_code == 413
    assert not list(uploads.glob("tmp*"))


def test_next_start_removes_folders_of_killed_server(tmp_path: Path):
    temporary, outputs = tmp_path / "temporary", tmp_path / "outputs"
    temporary.mkdir()
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--device", "cpu",
               "--output", str(outputs)]  # fmt: skip
    with subprocess.Popen(
        command, cwd=PROJECT, env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process, contextlib.ExitStack() as ending:  # fmt: skip
        ending.callback(process.kill)
        assert process.stdout is not None
        assert "Serving on" in process.stdout.readline()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(temporary))
            made = sorted(path.name.rpartition("-")[0] for path in temporary.glob("workbench-*"))
            assert made == ["workbench-headers", "workbench-page"]
            assert clean(outputs) == []
            process.kill()
            process.wait()
            assert len(clean(outputs)) == 2
    assert not list(temporary.glob("workbench-*"))


def test_image_with_too_many_pixels_is_refused_before_decoding(
    server: Server, uploads: Path, tmp_path: Path
):
    """97 million pixels in a few bytes: 277 MiB in the server or its worker."""
    file = tmp_path / "bomb.png"
    file.write_bytes(png_that_says(9900, 9800))
    plain = tmp_path / "plain.png"
    Image.new("RGB", (64, 64)).save(plain)
    process = psutil.Process(server.process.pid)
    processes = [process, *process.children(recursive=True)]
    before = [each.memory_info().rss for each in processes]
    client = Client(server.url, verbose=False)
    try:
        for image, mask in ((file, plain), (plain, file)):
            with pytest.raises(AppError, match=r"bomb\.png' has 9900x9800 pixels; 32 million fit"):
                client.predict(
                    image=handle_file(image), mask_image=handle_file(mask), api_name="/run_inpaint"
                )
    finally:
        client.close()
    grown = [each.memory_info().rss - then for each, then in zip(processes, before, strict=True)]
    assert max(grown) < 100 * 1024 * 1024
