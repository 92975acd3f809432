"""A guest's page: it draws, but cannot change other people's runs and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visit import DRAWING, WAIT_MS, OpenPage, Visit
from tests.servers import Server

pytestmark = pytest.mark.browser


@pytest.fixture
def guest(browser: Browser, server: Server) -> Iterator[Visit]:
    """A page opened from elsewhere, by a proxy of this machine."""
    context = browser.new_context(extra_http_headers={"X-Forwarded-For": "203.0.113.9"})
    context.set_default_timeout(WAIT_MS)
    yield Visit(context.new_page(), server.url)
    context.close()


def test_guest_draws_but_cannot_pin_or_free_others(guest: Visit, open_page: OpenPage) -> None:
    guest.run()
    guest["memory"].locator("button").first.click()
    guest.page.get_by_role("button", name=re.compile("^Pin ")).first.click()
    expect(guest["memory-said"]).to_contain_text("Only an operator may pin or drop")
    operator = open_page()
    operator.choose_long()
    operator.generate()
    operator.wait_for(DRAWING)
    guest["free"].click()
    guest["free-now"].click()
    expect(guest["notice"]).to_contain_text("Runs of other people are in progress")
    operator.cancel()
    expect(operator["generate"]).to_be_enabled()
