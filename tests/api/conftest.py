"""A real server, and a script that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from PIL import Image, ImageDraw

from tests.servers import Server, started_server
from tests.site import Site


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    """A web site that the server may fetch media from."""
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DW_MEDIA_HOSTS", " ".join(site.urls.media_hosts))
        # Limits that a test can reach.
        environment.setenv("DW_MAX_QUEUED_RUNS_PER_PERSON", "3")
        environment.setenv("DW_UNREAD_STREAM_S", "2")
        with started_server(tmp_path_factory.mktemp("api")) as server:
            yield server


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Client]:
    client = Client(
        server.url, verbose=False, analytics_enabled=False, download_files=str(tmp_path)
    )
    yield client
    client.close()


@pytest.fixture
def rest(server: Server) -> Iterator[httpx.Client]:
    """An operator's client: by loopback, without a password."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A red circle on white."""
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 98, 98), fill="red")
    image.save(tmp_path / "circle.png")
    return tmp_path / "circle.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A mask of the right half, white where the image shall change."""
    image = Image.new("L", (128, 128))
    image.paste(255, (64, 0, 128, 128))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"
