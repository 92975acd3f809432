"""Scripts behind a proxy that ends event streams end with an error, and their runs with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from app.remote import ServerWorkbench
from tests.api.test_streams import MANY, wait_until_idle
from tests.cutting_proxy import CuttingProxy
from tests.servers import Server

LIMIT_S = 2.0
PATIENCE_S = 60.0
MUCH: dict[str, Any] = {"/steps/0/pipeline/arguments/num_images_per_prompt": 32}


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server.url, LIMIT_S)
    yield proxy
    proxy.close()


def test_script_s_job_ends_with_its_stream_and_so_does_its_run(
    server: Server, proxy: CuttingProxy
) -> None:
    client = Client(proxy.address, verbose=False, analytics_enabled=False)
    job = client.submit(
        workflow="text-to-image", variables=MANY, changes=MUCH, api_name="/generate"
    )
    assert job.exception(timeout=PATIENCE_S) is not None
    wait_until_idle(server)
    assert proxy.cut > 0
    client.close()


def test_prompt_says_what_became_of_a_run_whose_stream_broke_off(
    server: Server, proxy: CuttingProxy, tmp_path: Path
) -> None:
    workbench = ServerWorkbench(proxy.address, None, tmp_path)
    try:
        # As a slow model would take: longer than the proxy lets a stream live.
        slow = {**MANY, "prompt": "a star " * 60}
        ended = workbench.run("text-to-image", slow, None, True)
        assert ended.seconds is None, "it was made before the stream could be cut"
        assert "connection to the server broke off" in ended.sentence
        assert "cancelled" in ended.sentence
        wait_until_idle(server)
    finally:
        workbench.close()
