"""An image at a URL through the real engine and its worker process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from app.protocol import ResultSaved, StepRemembered
from app.settings import Settings
from app.ui.server import with_media
from tests.engines import run, started_engine
from tests.site import Site, picture


def colours(results: tuple[ResultSaved, ...]) -> list[tuple[int, int, int]]:
    found = []
    for result in results:
        with Image.open(result.path) as opened:
            found.append(opened.convert("RGB").getpixel((4, 4)))
    return found


def test_url_media_are_fetched_in_their_present_state(tmp_path: Path):
    site = Site()
    red, lime, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    steps = [
        {
            "name": "gather",
            "task": {
                "command": "gather_images",
                "arguments": {"urls": [site.put("/dog.png", picture("lime"))]},
            },
        },
        {
            "name": "all",
            "task": {
                "command": "crop_square",
                "inputs": [{"image": "variable:init_image"}, {"image": "previous_result:gather"}],
            },
            "result": {"content_type": "image/png"},
        },
    ]
    url = site.put("/cat", picture("red"))
    document = {"id": "seen", "variables": {"init_image": {"location": url}}, "steps": steps}
    workflow = tmp_path / "seen.json"
    workflow.write_text(json.dumps(document))
    with started_engine(tmp_path, urls=site.urls) as engine:
        first = run(engine, workflow, fresh=False)
        assert colours(first.results) == [red, lime]
        site.put("/cat", picture("blue"))
        second = run(engine, workflow, fresh=False)
        assert colours(second.results) == [blue, lime]
        remembered = [e.step for e in second.events if isinstance(e, StepRemembered)]
        assert remembered == ["gather"]
        site.close()
        third = run(engine, workflow, fresh=False)
    assert third.success.made_at == second.success.time
    record = json.loads(Path(first.results[0].sidecar).read_text())
    assert record["inputs"] == {"init_image": {"location": url}}
    assert record["fetched"][url] == hashlib.sha256(picture("red")).hexdigest()


@pytest.mark.parametrize(
    ("environment", "fetches"),
    [
        ({}, True),
        ({"DW_HOST": "0.0.0.0"}, False),
        ({"DW_SHARE": "1"}, False),
        ({"DW_PUBLIC": "1"}, False),
        ({"DW_MEDIA_URLS": "0"}, False),
        ({"DW_HOST": "0.0.0.0", "DW_MEDIA_URLS": "1"}, True),
        ({"DW_SHARE": "1", "DW_MEDIA_URLS": "1"}, True),
    ],
)
def test_page_fetches_urls_only_locally_or_if_allowed(
    tmp_path: Path, environment: dict[str, str], fetches: bool
):
    settings = Settings.from_environment(environment)
    assert with_media(settings, tmp_path).paths.urls.media_urls is fetches
    # A shell on this machine belongs to its user.
    assert settings.paths.urls.media_urls is (environment.get("DW_MEDIA_URLS") != "0")


def test_operator_limits_fetching_and_caching():
    found = Settings.from_environment(
        {
            "DW_MEDIA_HOSTS": "nas.home:8080 10.0.0.5:80",
            "DW_MEDIA_FILE_BYTES": "1GB",
            "DW_MEDIA_CACHE_BYTES": "20GB",
        }
    ).paths.urls
    assert found.media_hosts == ("nas.home:8080", "10.0.0.5:80")
    assert (found.media_file_bytes, found.media_cache_bytes) == (1_000_000_000, 20_000_000_000)
