"""The page of a server with two workers: their states, and the memory of each."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.visit import DONE, DRAWING, OpenPage, Visit, write_long
from tests.servers import Server, started_server

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("two")
    with started_server(folder, write_long, devices="cpu,cpu") as server:
        yield server


def draw_much(visit: Visit) -> None:
    visit.choose_long()
    visit.set_number("steps", 400)
    visit.generate()
    visit.wait_for(DRAWING)


def test_page_shows_two_workers_and_changes_memory_of_each(open_page: OpenPage) -> None:
    """Takes a server of its own, with two workers."""
    first, second = open_page(), open_page()
    draw_much(first)
    draw_much(second)
    first.page.bring_to_front()
    memory = r"cpu [\d.]+ [MG]B"
    expect(first["chip"]).to_have_text(re.compile(rf"2 of 2 running · {memory} · {memory}"))
    first.wait_for(DONE)
    second.wait_for(DONE)

    first["memory"].locator("button").first.click()
    headings = first["held"].get_by_role("heading")
    expect(headings).to_have_text(["Worker 1 · cpu · CPU", "Worker 2 · cpu · CPU"])
    unets = first["memory"].locator(".held").filter(has_text="unet of shapes")
    expect(unets).to_have_count(2)
    unets.last.get_by_role("button", name="Pin").click()
    expect(unets.last).to_contain_text("pinned")
    expect(unets.first).not_to_contain_text("pinned")
    first["free"].click()
    expect(unets).to_have_count(0)
    expect(first["notice"]).to_contain_text("Freed")
