"""The Dockerfile is parsed, and its command is run from a copy of the image's content."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from app.settings import PROJECT, Settings
from app.ui.names import names_for
from app.ui.server import credentials
from tests.processes import started


class Recipe(NamedTuple):
    """Instructions of a Dockerfile, with continuation lines joined."""

    instructions: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [text for instruction, text in self.instructions if instruction == name]

    def environment(self) -> dict[str, str]:
        pairs = (word.partition("=") for text in self.all("ENV") for word in shlex.split(text))
        return {name: value for name, _, value in pairs}

    def command(self, name: str) -> list[str]:
        """Returns the exec form of CMD or the health check's CMD."""
        return json.loads(
            self.all(name)[-1].partition("[")[1] + self.all(name)[-1].partition("[")[2]
        )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    text = re.sub(r"^#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return Recipe([tuple(line.split(None, 1)) for line in lines if line.strip()])


def test_docker_image_is_slim_unprivileged_and_uses_a_volume(recipe: Recipe) -> None:
    environment = recipe.environment()
    assert recipe.all("FROM") == ["python:3.11-slim"]
    assert "--uid 1000" in recipe.all("RUN")[0]
    assert recipe.all("USER") == ["1000"]
    assert recipe.all("EXPOSE") == ["7860"]
    volume = recipe.all("VOLUME")[0]
    assert environment["HF_HOME"].startswith(volume)
    assert environment["DW_OUTPUTS"].startswith(volume)


def test_docker_context_has_only_copied_files(recipe: Recipe) -> None:
    sent = [line[1:] for line in (PROJECT / ".dockerignore").read_text().split() if line[0] == "!"]
    copied = [
        Path(word).name
        for text in recipe.all("COPY")
        for word in shlex.split(text)[:-1]
        if not word.startswith("--")
    ]
    assert copied == sent
    assert all((PROJECT / name).exists() for name in copied)


def test_proxied_page_requires_password_and_fetches_no_urls() -> None:
    """It listens on 127.0.0.1, but other machines reach it through the proxy."""
    behind = Settings.from_environment({"DW_ALLOWED_HOSTS": "draw.example.org"})
    assert credentials(behind) is not None
    assert not behind.ui.fetches_urls
    assert names_for(behind.ui).accept("draw.example.org")
    assert not names_for(behind.ui).accept("192.168.1.5")
    public = Settings.from_environment({"DW_ALLOWED_HOSTS": "draw.example.org", "DW_PUBLIC": "1"})
    assert credentials(public) is None


def test_space_front_matter_matches_image_port(recipe: Recipe) -> None:
    front_matter = (PROJECT / "README.md").read_text().split("---")[1]
    fields = dict(line.split(": ", 1) for line in front_matter.strip().splitlines())
    assert fields["sdk"] == "docker"
    assert fields["app_port"] == recipe.environment()["DW_PORT"]


def test_image_command_serves_page_with_password_and_stops(recipe: Recipe, tmp_path: Path) -> None:
    """The image listens beyond loopback; 127.0.0.2 stands for that here."""
    home = tmp_path / "app"
    for text in recipe.all("COPY"):
        *sources, destination = [word for word in shlex.split(text) if not word.startswith("--")]
        for source in map(Path, sources):
            target = home / destination
            if (PROJECT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(PROJECT / source, target, ignore=ignored)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / source, target)
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        **{
            name: value.replace("/data", str(tmp_path / "data")).replace(
                "/home/user", str(tmp_path)
            )
            for name, value in recipe.environment().items()
        },
        "DW_HOST": "127.0.0.2",
        "DW_PORT": str(port),
    }
    python, *arguments = recipe.command("CMD")
    assert python == "python"
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        server = started(
            [sys.executable, *arguments],
            cwd=home,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_healthy(f"http://127.0.0.2:{port}/healthz", server, log)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.2:{port}/gradio_api/info", timeout=5)
        assert refused.value.code == 401
        refused.value.close()
        assert re.search(r"password", log.read_text(), re.IGNORECASE)
        with urllib.request.urlopen(f"http://127.0.0.2:{port}/", timeout=5) as page:
            assert "printed where this server was started" in page.read().decode()

        check = recipe.command("HEALTHCHECK")
        probe_script = check[2].replace("127.0.0.1", "127.0.0.2")
        subprocess.run([sys.executable, *check[1:2], probe_script], env=environment, check=True)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=10) == 0, log.read_text()


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the server answers and has printed its address; fails with its log otherwise."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                # The page answers a moment before its address and password are printed.
                if "password" in log.read_text():
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        server_has_ended(server, within_s=0.2)
    pytest.fail(f"no answer from {url}:\n{log.read_text()}")


def server_has_ended(server: subprocess.Popen[bytes], within_s: float) -> bool:
    """Returns whether the process ends within this time."""
    try:
        server.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True
