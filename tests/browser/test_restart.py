"""A server that is killed under an open page and restarted.

Slow: two servers, and a run that is long enough to be killed in.
"""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from app.engine.history import AGAIN
from tests.browser.visit import DONE, DRAWING, WAIT_MS, Visit
from tests.servers import started_server

pytestmark = pytest.mark.browser


def test_open_page_follows_repeated_run_after_restart(browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    with started_server(tmp_path) as server:
        visit = Visit(context.new_page(), server.url)
        visit.prompt.fill("a gray crescent")
        # On a busy machine a short run would be over before the page is reloaded.
        visit.ask_for_much()
        visit.generate()
        visit.wait_for(DRAWING)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        expect(visit["chip"]).to_contain_text("connection lost")
    with started_server(tmp_path, port=urlsplit(server.url).port):
        # The page reloads itself.
        expect(visit["status"]).to_contain_text(AGAIN)
        visit.wait_for(DONE)
        visit.source(visit.result)
        expect(visit.prompt).to_have_value("a gray crescent")
        context.close()
