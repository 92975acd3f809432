"""Videos, audio and images as results: shown, reused, deleted under the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.visit import DRAWING, OpenPage, Visit, numbered_workflow
from tests.media.films import film, tone
from tests.servers import Server

pytestmark = pytest.mark.browser

DOCUMENT = {
    "id": "film-with-sound",
    "variables": {"a_video": None, "sound": None},
    "inputs": {"a_video": {"required": True}, "sound": {"kind": "audio", "required": True}},
    "steps": [
        {
            "name": "cut",
            "task": {
                "command": "slice_audio",
                "arguments": {"audio": "variable:sound", "start_seconds": 0, "duration_seconds": 1},
            },
            "result": {"content_type": "audio/wav"},
        },
        {
            "name": "still",
            "task": {"command": "get_first_frame", "arguments": {"video": "variable:a_video"}},
            "result": {"content_type": "image/png"},
        },
        {
            "name": "join",
            "task": {"command": "concat_videos", "arguments": {"videos": ["variable:a_video"]}},
            "result": {"content_type": "video/mp4", "fps": 8},
        },
    ],
}


def test_uploaded_video_and_audio_become_reusable_results(
    visit: Visit, server: Server, tmp_path: Path
) -> None:
    (server.workflows / "film-with-sound.json").write_text(json.dumps(DOCUMENT))
    visit.reload()
    visit.choose("Film with sound")
    shown = visit["input-a_video"].locator("video")
    for name, file in (("a_video", film(tmp_path / "a.mp4")), ("sound", tone(tmp_path / "a.wav"))):
        visit[f"input-{name}"].locator("input[type=file]").set_input_files(file)
    expect(shown).to_be_visible()
    expect(visit["input-sound"].get_by_role("button", name="Play", exact=True)).to_be_visible()
    visit.run()

    expect(visit["stage"].locator("video")).to_have_js_property("videoWidth", 32)
    expect(visit.tiles).to_have_count(3)
    visit.tiles.nth(2).click()
    expect(visit["stage"].locator("audio")).to_be_visible()
    visit.tiles.nth(0).click()
    expect(visit["stage"].locator("video")).to_be_visible()
    before = shown.get_attribute("src")
    visit["use-as-input"].click()
    expect(shown).not_to_have_attribute("src", before or "")
    expect(visit.page.get_by_test_id("toast-body")).to_have_count(0)


def test_viewed_earlier_result_stays_during_run(
    visit: Visit, server: Server, shapes_model: Path
) -> None:
    slow = json.loads(numbered_workflow(model_name=str(shapes_model), id="slow"))
    slow["steps"][0]["pipeline"]["arguments"]["num_images_per_prompt"] = 12
    (server.workflows / "slow.json").write_text(json.dumps(slow))
    visit.reload()
    visit.set_number("steps", 2)
    visit.run()
    visit.run()
    visit.choose("Slow")
    visit.set_number("steps", 50)
    visit.generate()
    visit.wait_for(DRAWING)
    expect(visit["stage"].locator("img.preview")).to_be_visible()
    visit.tiles.last.click()
    expect(visit.tiles.last).to_have_attribute("aria-current", "true")
    earlier = visit.source(visit.result)
    visit.wait_for(re.compile("^Step 1[0-9]"))
    assert visit.source(visit.result) == earlier
    visit["back"].click()
    expect(visit.result).to_have_count(0)
    visit.cancel()
    visit.wait_for("Cancelled while drawing")
    expect(visit["back"]).to_be_hidden()

    # The newest run made nothing; earlier results are shown all the same.
    visit.reload()
    visit.wait_for("Cancelled while drawing")
    expect(visit.tiles).to_have_count(2)
    visit.tiles.last.click()
    expect(visit["reuse-seed"]).to_be_enabled()


def test_deleted_results_are_reported(visit: Visit, server: Server) -> None:
    visit.open_details()
    visit.set_number("steps", 2)
    visit.run()
    visit.run()
    for picture in server.outputs.glob("*/text-to-image*.png"):
        shutil.rmtree(picture.parent, ignore_errors=True)
    # The browser still has the image, but its record was on the disk.
    visit.tiles.last.click()
    expect(visit["record"]).to_have_count(0)
    expect(visit.summary).to_contain_text("seed")
    visit["use-as-input"].click()
    expect(visit.page.get_by_test_id("toast-body")).to_contain_text("no longer there")

    browser = visit.page.context.new_cdp_session(visit.page)
    browser.send("Network.setCacheDisabled", {"cacheDisabled": True})
    visit.reload()
    expect(visit["stage"]).to_contain_text("cannot be opened any more")
    expect(visit.tiles).to_have_text(["cannot be opened"])
    visit.run()
    visit.source(visit.result)
    # The browser's own messages about missing images.
    visit.errors[:] = [error for error in visit.errors if "Failed to load" not in error]


def test_two_pages_of_one_person_show_results_of_both(open_page: OpenPage) -> None:
    first = open_page()
    second = first.another()
    for page in (first, second, first):
        page.set_number("steps", 2)
        page.run()
    expect(first.tiles).to_have_count(2)
    first.reload()
    expect(first.tiles).to_have_count(3)
