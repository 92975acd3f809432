"""One person runs, cancels, frees and is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.visit import DONE, DRAWING, OpenPage, Visit, numbered_workflow
from tests.servers import Server

pytestmark = pytest.mark.browser


def test_prompt_becomes_image_on_stage_and_in_strip(visit: Visit) -> None:
    visit.choose("Variations")
    visit.choose("Text to image")
    visit.prompt.fill("a large yellow star on a blue background")
    visit.ask_for_much()
    visit.prompt.press("Control+Enter")

    visit.wait_for(DRAWING)
    bar = visit["status"].get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"^[2-9]\d"))
    preview = visit["stage"].locator("img.preview")
    expect(preview).to_have_attribute("src", re.compile("^data:image/jpeg;base64,"))
    expect(visit["generate"]).to_be_disabled()

    visit.wait_for(DONE)
    assert visit.source(visit.result) == visit.source(visit.thumbnails.first)
    expect(visit["generate"]).to_be_enabled()
    expect(visit["cancel"]).to_be_disabled()


def test_strip_shows_newest_result_first(visit: Visit) -> None:
    visit.set_number("steps", 2)
    visit.run()
    first = visit.source(visit.result)
    visit.run()
    expect(visit.thumbnails).to_have_count(2)
    assert visit.source(visit.result) == visit.source(visit.thumbnails.first) != first
    assert visit.source(visit.thumbnails.last) == first

    visit.thumbnails.last.click()
    expect(visit.result).to_have_attribute("src", re.compile(re.escape(first.split("/")[-2])))


def test_same_worker_runs_next_run_after_cancel(visit: Visit, server: Server) -> None:
    visit.choose_long()
    visit.generate()
    visit.wait_for(DRAWING)
    worker = server.status()["pid"]
    visit.cancel()
    visit.wait_for("Cancelled while drawing")
    expect(visit["stage"]).to_contain_text("Cancelled")

    visit.set_number("pictures", 1)
    visit.set_number("steps", 2)
    visit.run()
    visit.source(visit.result)
    assert server.status()["pid"] == worker


def test_long_run_does_not_reload_page(visit: Visit) -> None:
    """Slow: the page takes a stream for lost after 15 seconds."""
    visit.choose_long()
    visit.set_number("pictures", 4)
    visit.generate()
    visit.wait_for(DRAWING)
    visit.page.evaluate("window.startedAt = Date.now()")
    visit.page.wait_for_function("Date.now() - window.startedAt > 18_000")
    visit.cancel()
    visit.wait_for("Cancelled while drawing")
    assert visit.page.evaluate("window.startedAt")


def test_free_gpu_reports_and_next_run_loads_again(visit: Visit) -> None:
    visit.open_details()
    visit.set_number("steps", 2)
    visit.run()
    visit.run()
    expect(visit.summary).to_contain_text("everything was loaded already")
    visit["free"].click()
    expect(visit["notice"]).to_contain_text(re.compile(r"Freed \d+ MB: .*unet of shapes"))
    visit["free"].click()
    expect(visit["notice"]).to_contain_text("there was nothing to free")
    visit.run()
    expect(visit.summary).to_contain_text(re.compile("loaded .*unet"))


def test_free_gpu_during_run_asks_what_to_do(visit: Visit) -> None:
    visit.choose_long()
    visit.generate()
    visit.wait_for(DRAWING)
    visit["free"].click()
    visit["free-now"].click()
    expect(visit["notice"]).to_contain_text("Freed")
    visit.wait_for("Cancelled while drawing")


def test_free_gpu_question_disappears_with_run(visit: Visit) -> None:
    visit.choose_long()
    visit.generate()
    visit.wait_for(DRAWING)
    visit["free"].click()
    expect(visit["free-choice"]).to_be_visible()
    visit.cancel()
    visit.wait_for("Cancelled while drawing")
    expect(visit["free-choice"]).to_be_hidden()


def test_value_out_of_range_is_refused_and_form_is_kept(
    visit: Visit, server: Server, shapes_model: Path
) -> None:
    workflow = numbered_workflow(model_name=str(shapes_model))
    (server.workflows / "by-number.json").write_text(workflow)
    visit.reload()
    visit.choose("By number")
    visit.prompt.fill("a green square")
    visit.set_number("steps", 99)
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.problems).to_contain_text("99 is outside 1 to 50")
    expect(visit.prompt).to_have_value("a green square")
    expect(visit["input-steps"].locator("input")).to_have_value("99")

    visit.set_number("steps", 2)
    visit.run()
    expect(visit.problems).to_have_count(0)


def test_non_integer_seed_is_refused_in_place(visit: Visit) -> None:
    visit.set_number("steps", 2)
    visit.seed.fill("many")
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.problems).to_contain_text("The seed has to be a whole number.")
    expect(visit.seed).to_have_value("many")
    visit.seed.fill("")
    visit.run()


def test_random_seed_is_shown_and_reusable(visit: Visit) -> None:
    visit.open_details()
    visit.set_number("steps", 2)
    visit.run()
    drawn, picture = visit.shown_seed(), visit.source(visit.result)
    visit["reuse-seed"].click()
    expect(visit.seed).to_have_value(drawn)
    visit["seed-random"].click()
    expect(visit.seed).to_have_value("")
    visit.run()
    assert visit.source(visit.result) != picture
    visit.thumbnails.last.click()
    expect(visit.summary).to_contain_text(f"seed {drawn}")
    visit["reuse-seed"].click()
    expect(visit.seed).to_have_value(drawn)
    visit.run()
    assert visit.shown_seed() == drawn


def test_phone_page_scrolls_to_outcome_and_fits_screen(
    open_page: OpenPage,
) -> None:
    visit = open_page(width=390, height=844)
    visit.set_number("steps", 2)
    expect(visit.result).to_have_count(0)
    visit.run()
    expect(visit.status).to_be_in_viewport()
    visit.source(visit.result)
    visit.open_details()
    expect(visit["record"]).to_contain_text("text-to-image")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390


def test_slow_browser_shows_everything_before_and_after_reload(
    visit: Visit,
) -> None:
    visit.prompt.fill("a small orange ring on a black background")
    visit.set_number("steps", 2)
    # So slowly that an update arrives while the page still applies the previous one.
    debugger = visit.page.context.new_cdp_session(visit.page)
    debugger.send("Emulation.setCPUThrottlingRate", {"rate": 8})
    visit.run()
    expect(visit["use-as-input"]).to_be_enabled()
    expect(visit["reuse-seed"]).to_be_enabled()
    expect(visit["cancel"]).to_be_disabled()
    visit.reload()
    visit.wait_for(DONE)
    expect(visit.thumbnails).to_have_count(1)
    expect(visit["use-as-input"]).to_be_enabled()
    visit.open_details()
    expect(visit.summary).to_contain_text("seed")
    expect(visit["record"]).to_contain_text("a small orange ring")


def test_unchanged_result_is_reported_and_offers_new_seed(visit: Visit) -> None:
    visit.open_details()
    visit.prompt.fill("a large green heart on a white background")
    visit.set_number("steps", 2)
    visit.seed.fill("7")
    visit.run()
    expect(visit["new-seed"]).to_be_hidden()
    first = visit.source(visit.result)

    visit.generate()
    visit.wait_for(re.compile(r"^Unchanged: from \d\d:\d\d, seed 7$"))
    expect(visit.summary).to_contain_text("reused earlier result")
    assert visit.source(visit.result) == first

    # The form's present values are for the next click on Generate.
    visit.prompt.fill("a small pink cross")
    visit["new-seed"].click()
    visit.wait_for(DONE)
    expect(visit["new-seed"]).to_be_hidden()
    expect(visit["record"]).to_contain_text("a large green heart")
    assert visit.source(visit.result) != first
    assert visit.shown_seed() != "7"
    expect(visit.seed).to_have_value("7")
    expect(visit.prompt).to_have_value("a small pink cross")
    expect(visit.thumbnails).to_have_count(2)

    # The new run belongs to this visit too: a reloaded page shows it.
    visit.reload()
    visit.wait_for(DONE)


def test_new_seed_is_not_offered_without_effect(
    visit: Visit, server: Server, shapes_model: Path
) -> None:
    document = json.loads(numbered_workflow(model_name=str(shapes_model), id="own-seed"))
    document["steps"][0]["seed"] = 3
    (server.workflows / "own-seed.json").write_text(json.dumps(document))
    visit.reload()
    visit.choose("Own seed")
    visit.seed.fill("7")
    visit.run()
    visit.generate()
    visit.wait_for(re.compile(r"^Unchanged: from \d\d:\d\d, seed 3$"))
    expect(visit["generate"]).to_be_enabled()
    expect(visit["new-seed"]).to_be_hidden()
