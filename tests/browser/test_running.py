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


def test_a_prompt_becomes_a_picture_on_the_stage_and_in_the_strip(visit: Visit) -> None:
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


def test_one_run_after_another_fills_the_strip_newest_first(visit: Visit) -> None:
    visit.set_number("steps", 2)
    visit.run()
    first = visit.source(visit.result)
    visit.run()
    expect(visit.thumbnails).to_have_count(2)
    assert visit.source(visit.result) == visit.source(visit.thumbnails.first) != first
    assert visit.source(visit.thumbnails.last) == first

    visit.thumbnails.last.click()
    expect(visit.result).to_have_attribute("src", re.compile(re.escape(first.split("/")[-2])))


def test_after_a_cancel_the_same_worker_takes_the_next_run(visit: Visit, server: Server) -> None:
    visit.ask_for_much()
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


def test_free_gpu_says_what_was_freed_and_the_next_run_loads_again(visit: Visit) -> None:
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


def test_free_gpu_during_a_run_asks_what_to_do_with_it(visit: Visit) -> None:
    visit.ask_for_much()
    visit.generate()
    visit.wait_for(DRAWING)
    visit["free"].click()
    visit["free-now"].click()
    expect(visit["notice"]).to_contain_text("Freed")
    visit.wait_for("Cancelled while drawing")


def test_the_question_about_a_run_goes_with_the_run(visit: Visit) -> None:
    visit.ask_for_much()
    visit.generate()
    visit.wait_for(DRAWING)
    visit["free"].click()
    expect(visit["free-choice"]).to_be_visible()
    visit.cancel()
    visit.wait_for("Cancelled while drawing")
    expect(visit["free-choice"]).to_be_hidden()


def test_what_is_out_of_range_is_refused_and_nothing_typed_is_lost(
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


def test_a_seed_that_is_no_number_is_refused_in_place(visit: Visit) -> None:
    visit.set_number("steps", 2)
    visit.seed.fill("many")
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.problems).to_contain_text("The seed has to be a whole number.")
    expect(visit.seed).to_have_value("many")
    visit.seed.fill("")
    visit.run()


def test_seeds_are_drawn_shown_and_used_again(visit: Visit) -> None:
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


def test_on_a_phone_the_outcome_comes_into_view_and_nothing_is_wider_than_the_screen(
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


def test_on_a_slow_machine_the_page_shows_everything_also_after_it_is_loaded_again(
    visit: Visit,
) -> None:
    visit.prompt.fill("a small orange ring on a black background")
    visit.set_number("steps", 2)
    # So slowly that what the page is told arrives while it still shows what it was told before.
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


def test_what_is_unchanged_says_so_and_is_run_with_a_new_seed_when_asked(visit: Visit) -> None:
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

    # What is in the form by now is for the next click on Generate.
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


def test_a_new_seed_is_not_offered_where_it_would_change_nothing(
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
