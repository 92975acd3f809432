"""The page below a path of a reverse proxy."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.visit import DONE, WAIT_MS, Visit
from tests.loopback import Loopback
from tests.ui.reverse_proxy import Forward
from tests.ui.serving import served


def test_page_below_a_path_of_a_proxy_shows_its_form_and_runs(
    browser: Browser, tmp_path: Path
) -> None:
    proxy = Loopback(Forward)
    proxy.missed = []
    with served(tmp_path, DW_ROOT_PATH="/draw") as server:
        proxy.upstream = int(server.url.rpartition(":")[2])
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        context.set_default_timeout(WAIT_MS)
        visit = Visit(context.new_page(), f"{proxy.address}/draw/")
        visit["generate"].click()
        expect(visit.status).to_have_text(DONE)
        expect(visit.result).to_be_visible()
        assert visit.result.evaluate("image => image.naturalWidth") > 0
        context.close()
        assert proxy.missed == []
        assert visit.errors == []
        assert visit.foreign_requests == []
    proxy.close()
