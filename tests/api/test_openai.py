"""OpenAI's interface for images, by OpenAI's own client and by plain HTTP."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageChops, ImageStat

from tests.api.test_odd_workflows import drawing
from tests.api.test_streams import MANY
from tests.servers import Server
from tests.site import Site
from tests.site import picture as drawn_picture
from tests.ui.serving import served

PROMPT = "a red circle on a white background"
FEW: dict[str, Any] = {"seed": 7, "inputs": {"steps": 2}}
GENERATIONS = "/v1/images/generations"
TOKEN = "a-token-of-some-length"


@pytest.fixture
def images(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def sized(server: Server) -> Iterator[str]:
    """A workflow whose inputs are the size and the steps, drawn one image at a time."""
    document = drawing("variable:words", variables={"words": PROMPT, "w": 64, "h": 64, "steps": 1})
    document["steps"][0]["pipeline"]["arguments"] |= {
        "width": "variable:w", "height": "variable:h", "num_inference_steps": "variable:steps",
    }  # fmt: skip
    file = server.workflows / "sized.json"
    file.write_text(json.dumps(document))
    yield "sized"
    file.unlink()


def opened(encoded: str | None) -> Image.Image:
    assert encoded is not None
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.load()
    return image


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# --- by the client --------------------------------------------------------------------------------


def test_workflows_with_images_are_models(images: openai.OpenAI) -> None:
    names = [model.id for model in images.models.list()]
    assert names[0] == "text-to-image"
    assert {"variations", "inpaint", "sdxl"} <= set(names)
    assert "wan21-t2v" not in names
    assert images.models.retrieve("inpaint").owned_by == "workbench"
    for name in ("dall-e-3", "wan21-t2v"):
        with pytest.raises(openai.NotFoundError) as caught:
            images.models.retrieve(name)
        assert caught.value.code == "model_not_found"


def test_prompt_makes_images(images: openai.OpenAI) -> None:
    answer = images.images.generate(
        model="text-to-image", prompt=PROMPT, n=2, size="auto", response_format="b64_json",
        user="somebody", quality="hd", extra_body=FEW,
    )  # fmt: skip
    assert answer.created > 0
    assert [opened(image.b64_json).size for image in answer.data or []] == [(128, 128)] * 2
    assert {image.model_extra["seed"] for image in answer.data or []} == {7}


def test_address_of_image_can_be_fetched(images: openai.OpenAI, server: Server) -> None:
    answer = images.images.generate(prompt=PROMPT, response_format="url", extra_body=FEW)
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    assert url.startswith(f"{server.url}/v1/results/")
    assert httpx.get(url).headers["content-type"] == "image/png"


def test_size_and_number_of_images_are_followed(images: openai.OpenAI, sized: str) -> None:
    answer = images.images.generate(
        model=sized, prompt=PROMPT, n=2, size="128x64", extra_body={"seed": 3}
    )
    data = answer.data or []
    assert [opened(image.b64_json).size for image in data] == [(128, 64)] * 2
    assert [image.model_extra["seed"] for image in data if image.model_extra] == [3, 4]
    assert data[0].b64_json != data[1].b64_json


@pytest.mark.parametrize(
    "asked", [{"stream": True}, {"partial_images": 2}, {"stream": True, "partial_images": 2}]
)
def test_streaming_is_refused_in_a_sentence(
    images: openai.OpenAI, picture: Path, asked: dict[str, Any]
) -> None:
    for call in (
        lambda: images.images.generate(prompt=PROMPT, extra_body=FEW, **asked),
        lambda: images.images.edit(image=picture, prompt=PROMPT, extra_body=FEW, **asked),
    ):
        with pytest.raises(openai.BadRequestError, match="not streamed here: leave it out") as told:
            call()
        assert told.value.param == next(iter(asked))


def test_streaming_that_is_off_is_ignored(images: openai.OpenAI) -> None:
    answer = images.images.generate(prompt=PROMPT, stream=False, partial_images=0, extra_body=FEW)
    assert len(answer.data or []) == 1


def test_size_without_input_is_refused(images: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no inputs for the size") as caught:
        images.images.generate(model="text-to-image", prompt=PROMPT, size="1024x1024")
    assert caught.value.code == "InvalidInputs"


def test_image_is_varied(images: openai.OpenAI, picture: Path) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = images.images.create_variation(
            image=picture, n=2, extra_body={"seed": 1, "inputs": {"steps": 2}}
        )
    assert len(answer.data or []) == 2


def transparent_half() -> bytes:
    """Returns an image whose right half is transparent: there it shall change."""
    mask = Image.new("RGBA", (128, 128), "black")
    mask.paste((0, 0, 0, 0), (64, 0, 128, 128))
    content = io.BytesIO()
    mask.save(content, "PNG")
    return content.getvalue()


def test_image_is_edited_where_the_mask_says(
    images: openai.OpenAI, picture: Path, mask: Path
) -> None:
    """OpenAI's masks are transparent there; those of other programs white."""
    made = []
    for sent in (transparent_half(), mask.read_bytes()):
        answer = images.images.edit(
            image=picture, mask=("mask.png", sent), prompt="a blue star", extra_body=FEW
        )
        made.append(opened((answer.data or [])[0].b64_json).convert("RGB"))
    assert made[0].tobytes() == made[1].tobytes()
    with Image.open(picture) as before:
        kept, changed = (
            mean_difference(before.convert("RGB").crop(box), made[0].crop(box))
            for box in ((0, 0, 56, 128), (72, 0, 128, 128))
        )
    assert 2 * kept < changed


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean)


def test_image_without_mask_is_edited_as_a_whole(images: openai.OpenAI, picture: Path) -> None:
    answer = images.images.edit(image=[picture], prompt="a blue star", extra_body=FEW)
    assert len(answer.data or []) == 1


def test_failed_run_is_an_error_that_is_not_sent_again(images: openai.OpenAI, site: Site) -> None:
    again = images.with_options(max_retries=2)
    body = {"inputs": {"image": site.url("/missing-once.png")}}
    with pytest.raises(openai.APIStatusError, match="404") as caught:
        again.images.generate(model="variations", prompt=PROMPT, extra_body=body)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len([path for path in site.asked if path == "/missing-once.png"]) == 1


def test_client_that_leaves_cancels_its_run(server: Server, images: openai.OpenAI) -> None:
    hasty = images.with_options(timeout=httpx.Timeout(60, read=1.0))
    inputs = {name: value for name, value in MANY.items() if name != "prompt"}
    with pytest.raises(openai.APITimeoutError):
        hasty.images.generate(model="text-to-image", prompt=PROMPT, extra_body={"inputs": inputs})
    newest = server.status()["runs"][0]
    report = httpx.get(f"{server.url}/v1/runs/{newest['run_id']}?wait=60", timeout=90).json()
    assert report["state"] == "cancelled"


# --- by plain HTTP -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "n": 0}, "n"), ({"prompt": "x", "n": 11}, "n"),
        ({"prompt": "x", "size": "large"}, "size"), ({"prompt": "x", "stream": True}, "stream"),
        ({"prompt": "x", "response_format": "jpeg"}, "response_format"),
        ({"prompt": "x", "seed": 1.5}, "seed"),
        ({"prompt": "x", "inputs": {"steps": 1000}}, "steps"),
        ({"prompt": "x", "inputs": {"colour": "red"}}, "colour"),
        ({"prompt": "x", "image": ["/etc/passwd"]}, None),
    ],
)  # fmt: skip
def test_wrong_parameter_is_named(rest: httpx.Client, body: Any, param: str | None) -> None:
    error = error_of(rest.post(GENERATIONS, json=body), 400)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_paths_are_no_images(rest: httpx.Client) -> None:
    form = {"image": (None, "/etc/passwd"), "prompt": (None, "x")}
    assert error_of(rest.post("/v1/images/edits", files=form), 400)["code"] == "InvalidInputs"
    form = {"mask": (None, "/etc/passwd"), "prompt": (None, "x"), "image": ("a.png", b"x")}
    assert "mask" in error_of(rest.post("/v1/images/edits", files=form), 400)["message"]


def test_image_of_an_edit_may_be_an_address(rest: httpx.Client, site: Site) -> None:
    form = {"image": site.put("/edit.png", drawn_picture("blue", 128)), "prompt": "a star"}
    sent = {name: (None, value) for name, value in {**form, "inputs[steps]": "2"}.items()}
    assert rest.post("/v1/images/edits", files=sent).status_code == 200


def test_broken_image_is_refused(rest: httpx.Client) -> None:
    form = {"image": ("a.png", b"no image"), "prompt": (None, "x")}
    assert "cannot be read" in error_of(rest.post("/v1/images/edits", files=form), 400)["message"]


def test_missing_image_and_wrong_kind_of_body_are_refused(rest: httpx.Client) -> None:
    for path in ("/v1/images/edits", "/v1/images/variations"):
        error_of(rest.post(path, json={"prompt": "x"}), 400)
        error_of(rest.post(path, files={"prompt": (None, "x")}), 400)
    error_of(rest.post(GENERATIONS, content=b"{"), 400)


def test_refusals_of_the_guard_have_openais_form(rest: httpx.Client) -> None:
    error_of(rest.get(GENERATIONS), 405)
    error_of(rest.get("/v1/images/nothing"), 404)
    error_of(rest.get("/v1/models", headers={"Origin": "https://evil.example"}), 403)


def test_refused_run_of_several_leaves_none_behind(rest: httpx.Client, sized: str) -> None:
    """The limit of this server is 3 waiting runs."""
    guest = {"X-Forwarded-For": "203.0.113.44"}
    steps = 50
    body = {"model": sized, "prompt": "x", "n": 10, "inputs": {"steps": steps}}
    error = error_of(rest.post(GENERATIONS, json=body, headers=guest), 429)
    assert error["type"] == "rate_limit_error"
    status = rest.get("/v1/status", headers=guest).json()
    assert not [run for run in status["runs"] if run["state"] in {"queued", "preparing", "ready"}]


def test_key_is_the_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with served(tmp_path, DW_AUTH="me:a-long-password", DW_API_TOKEN=TOKEN) as page:
        with openai.OpenAI(base_url=f"{page.url}/v1", api_key=TOKEN, max_retries=0) as client:
            assert client.models.retrieve("text-to-image").id == "text-to-image"
        with (
            openai.OpenAI(base_url=f"{page.url}/v1", api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
