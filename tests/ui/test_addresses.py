"""Addresses of `serve`: IPv6, proxy variables, a reverse proxy's path."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client

from app.network import prepare_proxies
from tests.conftest import PROJECT
from tests.loopback import Handler, Loopback
from tests.ui.reverse_proxy import Forward
from tests.ui.serving import answer, served

DEAD_PROXY = "http://127.0.0.1:9"
PROXIES = {
    "http_proxy": DEAD_PROXY,
    "https_proxy": DEAD_PROXY,
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "no_proxy": "intranet.example",
}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_loopback_is_served_and_printed_with_brackets(tmp_path: Path, host: str) -> None:
    with served(tmp_path, "--host", host) as server:
        assert server.url.startswith("http://[::1]:")
        assert answer(f"{server.url}/config") == 200


@needs_ipv6
def test_ipv6_any_address_also_takes_ipv4(tmp_path: Path) -> None:
    with served(tmp_path, "--host", "::", DW_PUBLIC="1") as server:
        port = server.url.rpartition(":")[2]
        assert server.url == f"http://localhost:{port}"
        assert answer(f"http://[::1]:{port}/config") == 200
        assert answer(f"http://127.0.0.1:{port}/config") == 200


def test_loopback_bypasses_proxy_variables(tmp_path: Path) -> None:
    """The server starts, and `free` reaches it, with proxies that do not answer."""
    with served(tmp_path, **PROXIES) as server:
        asked = subprocess.run(
            [sys.executable, "-m", "app", "free", "--server", server.url],
            cwd=PROJECT, env={**os.environ, **PROXIES}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout


class Recording(Handler):
    """A proxy without content that records the requests."""

    def do_HEAD(self) -> None:
        self.served.asked.append(self.path)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD


@pytest.mark.parametrize("exempt", ["", "intranet.example"])
def test_loopback_bypasses_proxy_in_every_client(
    monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, DEAD_PROXY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, exempt)
    prepare_proxies()
    here = Loopback(Recording)
    here.asked = []
    try:
        assert httpx.get(f"{here.address}/page", timeout=10).status_code == 404
    finally:
        here.close()
    assert here.asked == ["/page"]


def test_hub_is_reached_through_proxy(tmp_path: Path) -> None:
    proxy = Loopback(Recording)
    proxy.asked = []
    environment = {
        name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"
    } | {
        "http_proxy": proxy.address, "HF_ENDPOINT": "http://hub.example", "HF_HOME": str(tmp_path),
        "DW_DEVICE_BUDGET": "24GB",
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "app", "validate", "sd15"], cwd=PROJECT,
        env=environment, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    proxy.close()
    assert any(asked.startswith("http://hub.example/") for asked in proxy.asked)


@pytest.mark.parametrize(("proxy", "code"), [("ftp://127.0.0.1:9", 1), ("socks://127.0.0.1:9", 0)])
def test_unsupported_proxy_is_refused(proxy: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "app", "weights"], cwd=PROJECT,
        env={**os.environ, "ALL_PROXY": proxy}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ended.returncode == code
    assert code == 0 or ended.stderr.startswith("ALL_PROXY names a proxy of a kind that cannot")


@pytest.fixture
def below() -> Iterator[Loopback]:
    proxy = Loopback(Forward)
    proxy.missed = []
    yield proxy
    proxy.close()


def test_page_works_below_path_of_proxy(tmp_path: Path, below: Loopback) -> None:
    with served(tmp_path, DW_ROOT_PATH="/draw") as server:
        below.upstream = int(server.url.rpartition(":")[2])
        with urllib.request.urlopen(f"{below.address}/draw/config", timeout=30) as response:
            assert json.load(response)["root"] == f"{below.address}/draw"
        client = Client(f"{below.address}/draw/", verbose=False, analytics_enabled=False)
        assert client.predict(api_name="/list_workflows")
        client.close()
        # A proxy that keeps the prefix in the path works as well.
        assert answer(f"{server.url}/draw/config") == 200
        assert answer(f"{server.url}/draw/gradio_api/info") == 200
