"""Workflows and their forms: switching, images, masks, hostile texts, new files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.visit import Visit, numbered_workflow
from tests.servers import Server

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror='window.ran = true'>"


def test_switching_workflows_keeps_typed_values(visit: Visit) -> None:
    visit.prompt.fill("a purple heart")
    visit.set_number("steps", 7)
    visit.choose("Variations")
    expect(visit["input-image"]).to_be_visible()
    expect(visit.prompt).not_to_have_value("a purple heart")
    visit.choose("Text to image")
    expect(visit["input-image"]).to_have_count(0)
    expect(visit.prompt).to_have_value("a purple heart")
    expect(visit["input-steps"].locator("input[type=number]")).to_have_value("7")


def test_missing_required_image_is_reported(visit: Visit) -> None:
    visit.choose("Variations")
    expect(visit["input-image"]).to_be_visible()
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.problems).to_contain_text("Picture is needed.")
    visit.choose("Text to image")
    visit.wait_for("Ready when you are")


def test_uploaded_image_is_varied(visit: Visit, picture: Path) -> None:
    visit.choose("Variations")
    visit["input-image"].locator("input[type=file]").set_input_files(picture)
    visit.source(visit["input-image"].locator("img"))
    visit.run()
    visit.source(visit.result)


def test_checkpoint_is_picked_from_the_list_of_those_in_the_folder(visit: Visit) -> None:
    visit.choose("Stable Diffusion checkpoint")
    expect(visit["input-lora"].locator("input")).to_have_value("none")
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.problems).to_contain_text("Checkpoint is needed.")
    visit["input-checkpoint"].locator("input").click()
    visit.page.get_by_role("option", name="dream").click()
    for side in ("width", "height"):
        visit.set_number(side, 256)
    visit.run()
    expect(visit.result).to_have_js_property("naturalWidth", 256)


def test_non_image_file_is_refused(visit: Visit, tmp_path: Path) -> None:
    letter = tmp_path / "letter.png"
    letter.write_text("Dear reader")
    visit.choose("Variations")
    visit["input-image"].locator("input[type=file]").set_input_files(letter)
    visit["input-image"].locator("img").wait_for(state="attached")
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.problems).to_contain_text("'letter.png' cannot be read as a picture: its content")
    expect(visit.page.get_by_test_id("toast-body")).to_have_count(0)


def test_inpainting_changes_only_painted_area(visit: Visit, server: Server, picture: Path) -> None:
    visit.choose("Inpaint")
    editor = visit["input-image"]
    editor.locator("canvas").first.wait_for()
    editor.locator("input[type=file]").first.set_input_files(picture)
    expect(editor.get_by_role("button", name="Brush", exact=True)).to_be_visible()

    box = editor.locator("canvas").first.bounding_box()
    assert box is not None
    middle, line = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = visit.page.mouse
    mouse.move(middle - 40, line)
    mouse.down()
    mouse.move(middle + 40, line, steps=8)
    mouse.up()
    expect(editor.get_by_role("button", name="Undo")).to_be_enabled()
    visit.set_number("steps", 4)

    visit.run()
    visit.source(visit.result)
    newest = max(server.outputs.glob("*/inpaint*.png"), key=lambda path: path.stat().st_mtime)
    with Image.open(newest) as drawn:
        corner = drawn.convert("RGB").crop((0, 0, 8, 8)).resize((1, 1)).getpixel((0, 0))
    assert min(corner) > 200, "the corner, which was not painted over, was white"


def test_field_keeps_nothing_of_last_form(visit: Visit, picture: Path) -> None:
    expect(visit["input-prompt"]).to_contain_text("Twelve colours")
    visit.choose("Inpaint")
    visit["input-image"].locator("canvas").first.wait_for()
    visit.choose("Variations")
    visit.choose("SDXL")
    expect(visit["input-prompt"]).not_to_contain_text("Twelve colours")

    visit.choose("Inpaint")
    visit["input-image"].locator("canvas").first.wait_for()
    visit.choose("Variations")
    visit["input-image"].locator("input[type=file]").set_input_files(picture)
    expect(visit["fit"]).to_contain_text("fits in")
    expect(visit.page.get_by_test_id("toast-body")).to_have_count(0)


def test_result_becomes_input_of_other_workflow(visit: Visit) -> None:
    visit.set_number("steps", 2)
    visit.run()
    visit["use-as-input"].click()
    expect(visit["workflow"].locator("input")).to_have_value(re.compile("^(Inpaint|Variations)"))
    expect(visit["input-image"]).to_be_visible()


def test_markup_in_prompt_is_text(visit: Visit) -> None:
    visit.prompt.fill(HOSTILE)
    visit.set_number("steps", 2)
    visit.run()
    visit.open_details()
    expect(visit["record"]).to_contain_text(HOSTILE)
    visit.seed.fill(HOSTILE)
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.problems).to_contain_text(HOSTILE)
    assert visit.page.evaluate("window.ran") is None


def test_added_workflow_is_listed_after_page_load(
    visit: Visit, server: Server, shapes_model: Path
) -> None:
    """Its author's markup is shown as text."""
    text = numbered_workflow(
        model_name=str(shapes_model),
        id=f"Late {HOSTILE}",
        description=HOSTILE,
        inputs={"prompt": {"label": HOSTILE, "help": HOSTILE, "examples": [HOSTILE]}},
    )
    (server.workflows / "late.json").write_text(text)
    visit.reload()
    visit.choose(f"Late {HOSTILE}")
    expect(visit["description"]).to_contain_text(HOSTILE)
    expect(visit["input-prompt"]).to_contain_text(HOSTILE)
    visit.page.get_by_role("button", name=HOSTILE).click()
    expect(visit.prompt).to_have_value(HOSTILE)
    visit.run()
    assert visit.page.evaluate("window.ran") is None


def test_invalid_document_shows_problem_instead_of_running(visit: Visit, server: Server) -> None:
    (server.workflows / "broken.json").write_text('{"id": "broken", "steps": [}')
    visit.reload()
    visit.choose("Broken")
    expect(visit["description"].get_by_role("alert")).to_contain_text("JSON")
    visit.generate()
    visit.wait_for("Not started")


def test_removed_workflow_is_not_run(visit: Visit, server: Server, shapes_model: Path) -> None:
    text = numbered_workflow(model_name=str(shapes_model), id="gone")
    (server.workflows / "gone.json").write_text(text)
    visit.reload()
    (server.workflows / "gone.json").unlink()
    visit.choose("Gone")
    expect(visit["description"].get_by_role("alert")).to_contain_text("no workflow 'gone'")
    visit.generate()
    visit.wait_for("Not started")
    expect(visit.page.get_by_test_id("toast-body")).to_have_count(0)


def test_empty_or_overfilled_slider_is_refused_without_traceback(
    visit: Visit,
) -> None:
    visit.set_number("steps", 2)
    field = visit["input-pictures"].locator("input[type=number]")
    for typed, left in (("", "1"), ("99", "4")):
        field.fill(typed)
        expect(visit["fit"]).to_contain_text("about 11 MB" if not typed else "")
        field.blur()
        expect(field).to_have_value(left)
    visit.run()
    expect(visit.tiles).to_have_count(4)
    expect(visit.page.get_by_test_id("toast-body")).to_have_count(0)


def test_fit_line_follows_form(visit: Visit) -> None:
    line = visit["fit"].locator("p")
    expect(line).to_have_text(
        re.compile(
            r"^text-to-image: 22 MB of weights \(unet 17 MB, vae 4 MB, text_encoder 2 MB\), about"
            r" 11 MB more while it runs; fits in [\d.]+ GB, on a CPU\.$"
        )
    )
    visit.set_number("pictures", 4)
    expect(line).to_contain_text("about 44 MB more while it runs")
    visit.choose("SDXL")
    expect(line).to_contain_text("SDXL: memory needs unknown until")
    expect(line).to_contain_text("has been downloaded.")


def test_fit_line_depends_on_image(visit: Visit, picture: Path) -> None:
    visit.choose("Variations")
    expect(visit["fit"]).to_have_text("")
    visit["input-image"].locator("input[type=file]").set_input_files(picture)
    expect(visit["fit"]).to_contain_text("about 11 MB more while it runs; fits in")
