"""The memory panel: held components, pinned and dropped from the page."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.visit import Visit

pytestmark = pytest.mark.browser


def open_and_free(visit: Visit) -> None:
    """Opens the panel and frees what other tests have loaded."""
    visit["memory"].locator("button").first.click()
    visit["free"].click()
    expect(visit["memory"]).to_contain_text("Nothing is held.")


def test_held_components_can_be_pinned_dropped_and_freed(visit: Visit) -> None:
    open_and_free(visit)
    visit.run()
    rows = visit["memory"].locator(".held")
    expect(rows).to_have_count(3)
    unet = rows.filter(has_text="unet of shapes")
    expect(unet).to_contain_text(re.compile(r"17 MB *last used [\d:]+ by .*text-to-image"))
    expect(visit["memory"].get_by_role("meter", name="Models", exact=True)).to_be_visible()

    unet.get_by_role("button", name="Pin").click()
    expect(unet).to_contain_text("pinned")
    expect(unet.get_by_role("button", name="Unpin")).to_be_visible()

    rows.filter(has_text="vae of shapes").get_by_role("button", name="Drop").click()
    expect(rows).to_have_count(2)
    expect(visit["memory"]).to_contain_text("vae of shapes (float32). Why: somebody asked for it.")

    visit["free"].click()
    expect(rows).to_have_count(0)
    expect(visit["memory"]).to_contain_text("Nothing is held.")
    visit.run()
    expect(rows).to_have_count(3)


def test_button_replaced_while_pressed_does_nothing(
    visit: Visit,
) -> None:
    open_and_free(visit)
    visit.run()
    rows = visit["memory"].locator(".held")
    expect(rows.first).to_contain_text("unet of shapes")
    drop = rows.first.get_by_role("button", name="Drop")
    drop.hover()
    visit.page.mouse.down()
    drop.press("Enter")
    expect(rows.first).to_contain_text("vae of shapes")
    visit.page.mouse.up()

    rows.last.get_by_role("button", name="Pin").click()
    expect(rows.last).to_contain_text("pinned")
    expect(rows).to_have_count(2)
