"""A proxy that cuts event streams: the page notices and follows its run to the end."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.visit import DONE, WAIT_MS, Visit
from tests.cutting_proxy import CuttingProxy
from tests.servers import Server

pytestmark = pytest.mark.browser

LIMIT_S = 3.0


@pytest.fixture
def proxied(browser: Browser, server: Server):
    """A page behind a proxy that limits the life of streams, and the proxy."""
    proxy = CuttingProxy(server.url, LIMIT_S)
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    yield Visit(context.new_page(), proxy.address), proxy
    context.close()
    proxy.close()


def test_page_follows_run_through_cut_streams(
    proxied: tuple[Visit, CuttingProxy],
) -> None:
    visit, proxy = proxied
    visit.ask_for_much()
    visit.generate()
    visit.wait_for(DONE)
    assert proxy.cut > 0
    assert visit.result.is_visible()
