"""The fit line of a hub model: the form is shown first, the line follows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visit import Visit
from tests.hub import Hub
from tests.servers import started_server

pytestmark = pytest.mark.browser


def test_fit_line_of_missing_model_comes_from_hub(
    browser: Browser, tmp_path: Path, shapes_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shapes_model, tmp_path / "hub" / "test" / "far")
    hub = Hub(tmp_path / "hub")
    hub.only(monkeypatch, tmp_path / "home")
    with started_server(tmp_path) as server:
        for name in ("far", "missing"):
            document = {
                "id": name,
                "variables": {"width": 128},
                "steps": [
                    {
                        "name": "draw",
                        "pipeline": {
                            "configuration": {"component_type": "StableDiffusionPipeline"},
                            "from_pretrained_arguments": {"model_name": f"test/{name}"},
                            "arguments": {"prompt": "a star", "width": "variable:width"},
                        },
                        "result": {"content_type": "image/png"},
                    }
                ],
            }
            (server.workflows / f"{name}.json").write_text(json.dumps(document))
        context = browser.new_context()
        visit = Visit(context.new_page(), server.url)
        line = visit["fit"].locator("p")
        expect(line).to_contain_text("22 MB of weights")
        assert hub.requests == []
        visit.choose("Far")
        expect(line).to_have_text(
            re.compile(r"^far: 22 MB of weights \(unet 17 MB, .*; fits in [\d.]+ GB, on a CPU\.$")
        )
        asked = len(hub.requests)
        visit.choose("Missing")
        expect(line).to_contain_text("the hub has no such model, or asks for a login (HF_TOKEN).")
        with hub.gone():
            visit.choose("Far")
            expect(line).to_contain_text("far: 22 MB of weights")
        assert len(hub.requests) == asked + 1
        context.close()
        assert visit.errors == []
    hub.close()
