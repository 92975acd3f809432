"""The interface of AUTOMATIC1111's web UI, by the client package `webuiapi`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webuiapi
from PIL import Image

from tests.servers import Server
from tests.ui.serving import served

PROMPT = "a red circle on a white background"


@pytest.fixture
def api(server: Server) -> Iterator[webuiapi.WebUIApi]:
    """A client of its own: what it chooses and interrupts is not that of other tests."""
    api = webuiapi.WebUIApi(baseurl=f"{server.url}/sdapi/v1", steps=2)
    api.session.headers["X-Forwarded-For"] = "203.0.113.71"
    yield api
    api.session.close()


def test_images_are_drawn_and_redrawn(api: webuiapi.WebUIApi, picture: Path, mask: Path) -> None:
    drawn = api.txt2img(prompt=PROMPT, seed=7, batch_size=2)
    assert [image.size for image in drawn.images] == [(128, 128)] * 2
    assert (drawn.info["all_seeds"], drawn.parameters["steps"]) == ([7, 7], 2)
    assert "scheduler" not in drawn.info["notes"][-1]
    with Image.open(picture) as image, Image.open(mask) as changed:
        redrawn = api.img2img(images=[image], prompt=PROMPT, seed=7)
        masked = api.img2img(images=[image], mask_image=changed, prompt=PROMPT, seed=7)
    assert (redrawn.image.size, redrawn.info["sd_model_name"]) == ((128, 128), "variations")
    assert masked.info["sd_model_name"] == "inpaint"


def test_models_samplers_and_options_are_listed_and_chosen(api: webuiapi.WebUIApi) -> None:
    assert {"text-to-image", "draw-then-outline"} <= set(api.util_get_model_names())
    assert api.get_sd_models()[0]["title"] == "text-to-image"
    assert api.util_get_sampler_names() == ["Automatic"]
    assert api.util_get_scheduler_names() == ["automatic"]
    assert api.get_options()["sd_model_checkpoint"] == "text-to-image"
    api.util_set_model("draw-then-outline")
    assert api.util_get_current_model() == "draw-then-outline"
    assert api.txt2img(prompt=PROMPT).info["sd_model_name"] == "draw-then-outline"
    api.util_set_model("text-to-image")
    api.util_wait_for_ready()


def test_request_is_followed_and_interrupted(api: webuiapi.WebUIApi) -> None:
    ended: list[Any] = []
    drawing = threading.Thread(
        target=lambda: ended.append(api.txt2img(prompt=PROMPT, steps=50, batch_size=4))
    )
    drawing.start()
    while not 0 < api.get_progress()["progress"] < 1:
        assert drawing.is_alive()
    assert api.interrupt() == {}
    drawing.join(60)
    assert ended[0].images == []
    assert "The run was cancelled." in ended[0].info["notes"]


def test_mistake_is_a_sentence(api: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="1000 is outside 1 to 50"):
        api.txt2img(prompt=PROMPT, steps=1000)


def test_login_is_that_of_the_page(tmp_path: Path) -> None:
    with served(tmp_path, DW_AUTH="me:a-long-password") as page:
        port = int(page.url.rpartition(":")[2])
        api = webuiapi.WebUIApi(port=port, username="me", password="a-long-password", steps=2)
        assert api.txt2img(prompt=PROMPT).image.size == (128, 128)
        api.set_auth("me", "wrong")
        with pytest.raises(RuntimeError, match="401"):
            api.txt2img(prompt=PROMPT)
        api.session.close()
