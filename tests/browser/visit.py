"""The page as a person uses it: choose, type, press, look."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, expect

from app.settings import PROJECT

DONE = re.compile("^Done in")
DRAWING = re.compile("^Step")
CUT_STREAM = re.compile("AbortError: signal is aborted|Connection errored out")
LEFT_EDITOR = re.compile(r"of null \(reading 'get_data'\)")
"""Logged by Gradio's image editor when its form is left while it still gathers its value."""
WAIT_MS = 40_000
"""Longest wait for any one thing: only failures ever wait so long."""


def write_long(workflows: Path) -> None:
    """Writes a workflow whose runs take a minute, for tests that cancel them; see `choose_long`."""
    document = json.loads((PROJECT / "workflows" / "text-to-image.json").read_text())
    document |= {"id": "long", "description": "Draws for a minute."}
    document["variables"]["steps"] = document["inputs"]["steps"]["maximum"] = 1000
    pipeline = document["steps"][0]["pipeline"]
    pipeline["from_pretrained_arguments"]["model_name"] = str(PROJECT / "models" / "shapes")
    (workflows / "long.json").write_text(json.dumps(document))


class Visit:
    """One page in one browser."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.foreign_requests: list[str] = []
        host = urlsplit(url).netloc

        def note_request(address: str) -> None:
            parts = urlsplit(address)
            if parts.scheme not in {"data", "blob"} and parts.netloc != host:
                self.foreign_requests.append(address)

        def note_message(kind: str, text: str) -> None:
            if kind == "error" and not LEFT_EDITOR.search(text):
                self.errors.append(text)

        page.on("request", lambda request: note_request(request.url))
        page.on("console", lambda message: note_message(message.type, message.text))
        page.on("pageerror", lambda error: note_message("error", str(error)))
        page.goto(url)
        expect(self.prompt).to_be_visible()

    def __getitem__(self, elem_id: str) -> Locator:
        return self.page.locator(f"#{elem_id}")

    @property
    def prompt(self) -> Locator:
        return self["input-prompt"].locator("textarea")

    @property
    def seed(self) -> Locator:
        return self["seed"].locator("input, textarea")

    @property
    def status(self) -> Locator:
        """The status line of the run."""
        return self["status"].locator(".line")

    @property
    def problems(self) -> Locator:
        """The problems of a request or a run."""
        return self["status"].get_by_role("alert")

    @property
    def result(self) -> Locator:
        """The image on the stage, once there is one."""
        return self["stage"].locator("img.result")

    @property
    def thumbnails(self) -> Locator:
        return self["strip"].locator("img, video")

    @property
    def tiles(self) -> Locator:
        """The results of this visit in the strip, newest first."""
        return self["strip"].get_by_role("button")

    def another(self) -> Visit:
        """A second page in the same browser."""
        return Visit(self.page.context.new_page(), self.page.url)

    def choose(self, workflow: str) -> None:
        """Chooses a workflow by the beginning of its title, and waits for its form."""
        shown = self["description"].inner_text()
        self["workflow"].locator("input").click()
        title = re.compile(rf"^\W*{re.escape(workflow)} ·")
        self.page.get_by_role("option").filter(has_text=title).click()
        expect(self["description"]).not_to_have_text(shown)

    def set_number(self, name: str, value: int) -> None:
        """Types a number into its field, also one beside a slider, and leaves the field."""
        field = self[f"input-{name}"].locator("input[type=number]")
        # The form of a newly chosen workflow may not be there yet.
        field.or_(self["advanced"]).first.wait_for()
        if not field.is_visible():
            self["advanced"].locator("button").first.click()
        field.fill(str(value))
        field.blur()

    def ask_for_much(self) -> None:
        """Sets values that make the shapes model work for many seconds."""
        self.set_number("pictures", 4)
        self.set_number("steps", 50)

    def choose_long(self) -> None:
        """Chooses the workflow that `write_long` has written."""
        self.choose("Long")

    def generate(self) -> None:
        self["generate"].click()

    def cancel(self) -> None:
        self["cancel"].click()

    def wait_for(self, status: str | re.Pattern[str]) -> None:
        """Waits for this text in the status line."""
        expect(self.status).to_have_text(status)

    def run(self) -> None:
        """Presses Generate and waits for the success of this run."""
        told = self["status"].locator("[data-run]")
        last_run = told.get_attribute("data-run") or ""
        self.generate()
        expect(told).not_to_have_attribute("data-run", last_run)
        self.wait_for(DONE)
        expect(self["generate"]).to_be_enabled()

    def source(self, picture: Locator) -> str:
        """Returns the URL of a loaded image."""
        expect(picture).to_be_visible()
        expect(picture).to_have_js_property("naturalWidth", 128)
        return str(picture.evaluate("picture => picture.src"))

    def open_details(self) -> None:
        """Opens the details of the run on the stage."""
        self["details"].locator("summary").click()
        expect(self.summary).to_be_visible()

    @property
    def summary(self) -> Locator:
        """The summary of the run on the stage, while the details are open."""
        return self["details"].locator(".summary")

    def shown_seed(self) -> str:
        """Returns the seed of the run on the stage, from its summary."""
        found = re.search(r"seed (\d+)", self.summary.inner_text())
        assert found is not None
        return found[1]

    def reload(self) -> None:
        """Reloads the page. Gradio's messages about the streams that this cuts are no errors."""
        self.page.reload()
        expect(self.prompt).to_be_visible()
        self.errors[:] = [error for error in self.errors if not CUT_STREAM.search(error)]


class OpenPage(Protocol):
    """Opens the page as another person with another browser."""

    def __call__(self, *, width: int = 1280, height: int = 860) -> Visit: ...


def numbered_workflow(**fields: Any) -> str:
    """Returns a workflow's text: the shapes model with its steps as a number field, not a
    slider."""
    document = {
        "id": "by-number",
        "description": "Draws with a number of steps that is typed.",
        "variables": {"prompt": "a red circle on a white background", "steps": 2},
        "inputs": {"steps": {"kind": "integer", "minimum": 1, "maximum": 50}},
        "steps": [
            {
                "name": "draw",
                "pipeline": {
                    "configuration": {"component_type": "StableDiffusionPipeline"},
                    "from_pretrained_arguments": {"model_name": fields.pop("model_name")},
                    "arguments": {
                        "prompt": "variable:prompt",
                        "num_inference_steps": "variable:steps",
                    },
                },
                "result": {"content_type": "image/png"},
            }
        ],
    }
    return json.dumps({**document, **fields})
