"""A real server, and a stranger who talks to it without any client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, started_server
from tests.ui.stranger import Stranger


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_server(tmp_path_factory.mktemp("outside")) as server:
        yield server


@pytest.fixture
def stranger(server: Server) -> Stranger:
    return Stranger(server.url)
