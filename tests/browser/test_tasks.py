"""A workflow of tasks, which makes an image and a text, on the page."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.browser.visit import Visit
from tests.servers import Server

pytestmark = pytest.mark.browser

DOCUMENT = {
    "id": "code-and-text",
    "variables": {"text": "hello"},
    "steps": [
        {
            "name": "code",
            "task": {"command": "qr_code", "arguments": {"qr_code_contents": "variable:text"}},
            "result": {"content_type": "image/png"},
        },
        {
            "name": "say",
            "task": {
                "command": "format_chat_message",
                "arguments": {"system_prompt": "<b>Be brief.</b>", "user_message": "variable:text"},
            },
            "result": {"content_type": "application/json"},
        },
    ],
}


def test_text_is_on_stage_and_only_image_in_strip(visit: Visit, server: Server) -> None:
    (server.workflows / "code-and-text.json").write_text(json.dumps(DOCUMENT))
    visit.reload()
    visit.choose("Code and text")
    visit["input-text"].locator("textarea").fill("a fox")
    visit.run()
    shown = visit["stage"].locator("pre")
    expect(shown).to_contain_text("<b>Be brief.</b>")
    expect(shown).to_contain_text("a fox")
    expect(visit.thumbnails).to_have_count(1)
    visit.thumbnails.first.click()
    expect(visit.result).to_be_visible()
