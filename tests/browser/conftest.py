"""A real Chromium on the page of a real server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.visit import WAIT_MS, OpenPage, Visit, write_long
from tests.servers import Server, started_server
from tests.standins.families import build_narrow


# Both end with this folder: while Playwright is open, no other test may run an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "Chromium is not on the PATH (`make browser` installs Debian's)."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=WAIT_MS)
    # It makes a socket in the temporary folder; the path of a socket may have 107 bytes.
    short = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], env=short
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    build_narrow("sd15", folder / "models" / "checkpoints" / "dream.safetensors")
    with started_server(folder, write_long, models=folder / "models") as server:
        yield server


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[OpenPage]:
    """Opens pages; at the end none has logged an error or sent a request to another host."""
    visits: list[Visit] = []

    def open_one(*, width: int = 1280, height: int = 860) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(WAIT_MS)
        visits.append(Visit(context.new_page(), server.url))
        return visits[-1]

    yield open_one
    for visit in visits:
        # A round trip: what the page has logged by now has arrived. Closing a page whose stream is
        # still open makes Gradio log an error of its own.
        if not visit.page.is_closed():
            visit.page.evaluate("0")
    logged = [(*visit.errors, *visit.foreign_requests) for visit in visits]
    for visit in visits:
        visit.page.context.close()
    assert logged == [()] * len(visits)


@pytest.fixture
def visit(open_page: OpenPage) -> Visit:
    """One open page."""
    return open_page()


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red circle on white, 128 pixels wide."""
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 98, 98), fill="red")
    path = tmp_path_factory.mktemp("pictures") / "circle.png"
    image.save(path)
    return path
