"""Scripts behind a proxy that cuts event streams end with an error, and so do their runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from app.shell.remote import ServerWorkbench
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


def test_cut_stream_ends_job_and_run(server: Server, proxy: CuttingProxy) -> None:
    client = Client(proxy.address, verbose=False, analytics_enabled=False)
    job = client.submit(
        workflow="text-to-image", variables=MANY, changes=MUCH, api_name="/generate"
    )
    assert job.exception(timeout=PATIENCE_S) is not None
    wait_until_idle(server)
    assert proxy.cut > 0
    client.close()


def test_prompt_reports_run_of_cut_stream(
    server: Server, proxy: CuttingProxy, tmp_path: Path
) -> None:
    workbench = ServerWorkbench(proxy.address, None, tmp_path)
    try:
        # Like a slow model: longer than the proxy lets a stream live.
        slow = {**MANY, "prompt": "a star " * 60}
        ended = workbench.run("text-to-image", slow, None, True)
        assert ended.seconds is None, "it was made before the stream could be cut"
        assert "connection to the server broke off" in ended.sentence
        assert "cancelled" in ended.sentence
        wait_until_idle(server)
    finally:
        workbench.close()
