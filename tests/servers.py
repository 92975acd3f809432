"""The real server in its own process, and its log's lines about runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes import started

PROJECT = Path(__file__).resolve().parent.parent
RUN_LINE = re.compile(r"Run (\S+) (started|ended: \w+)$", re.MULTILINE)
START_S = 120


CHOSEN_MODEL: dict[str, Any] = {
    "id": "chosen",
    "variables": {"model": "example/named"},
    "steps": [
        {
            "name": "draw",
            "pipeline": {
                "configuration": {"component_type": "StableDiffusionPipeline"},
                "from_pretrained_arguments": {"model_name": "variable:model"},
                "arguments": {"prompt": "a star"},
            },
            "result": {"content_type": "image/png"},
        }
    ],
}
"""A document whose form asks for its model, by default `example/named`."""


class Server(NamedTuple):
    """A server that answers and whose worker is ready."""

    url: str
    workflows: Path
    """A further folder of its catalog, empty at the start."""
    outputs: Path
    log: Path
    process: subprocess.Popen[bytes]

    def status(self) -> dict[str, Any]:
        """Returns the answer of `/status`."""
        request = urllib.request.Request(
            f"{self.url}/gradio_api/run/status",
            data=b'{"data": []}',
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["data"][0]

    def runs_logged(self, start: int = 0) -> list[tuple[str, str]]:
        """Returns run id and `started` or `ended: …`, in the worker's order, from that place in the
        log."""
        return RUN_LINE.findall(self.log.read_text()[start:])


@contextlib.contextmanager
def started_server(
    folder: Path,
    fill: Callable[[Path], None] = lambda _workflows: None,
    *,
    port: int | None = None,
    devices: str = "cpu",
    models: Path | None = None,
) -> Iterator[Server]:
    """Starts a server on loopback that writes below `folder`; ends it as a person does.

    `fill` writes workflows into its further folder before the start; without `port` it gets a free
    one. `models` is a further folder of models.
    """
    workflows, outputs, log = folder / "workflows", folder / "outputs", folder / "server.log"
    workflows.mkdir(exist_ok=True)
    fill(workflows)
    port = port or _free_port()
    command = [
        sys.executable, "-m", "app", "serve", "--port", str(port), "--devices", devices,
        "--output", str(outputs), "--workflows", str(workflows), "--log-level", "DEBUG",
    ]  # fmt: skip
    command += [] if models is None else ["--models", str(models)]
    # CI is not passed on: Gradio must behave as on a person's machine.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    with log.open("wb") as output:
        process = started(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(f"http://127.0.0.1:{port}", workflows, outputs, log, process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        # A test may have killed it.
        if process.poll() != -signal.SIGKILL:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0, log.read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: Server) -> None:
    # Its worker too: the fit line needs the memory that the worker reports.
    for _ in range(5 * START_S):
        try:
            with urllib.request.urlopen(f"{server.url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            # The pause between two requests ends early when the server does.
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.2)
                break
    raise AssertionError(f"no answer from {server.url}:\n{server.log.read_text()}")
