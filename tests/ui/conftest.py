"""A real server, and an unauthenticated client on a plain socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, started_server
from tests.ui.raw_client import RawClient


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_server(tmp_path_factory.mktemp("outside")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> RawClient:
    return RawClient(server.url)
