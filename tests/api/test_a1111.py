"""The interface of AUTOMATIC1111's web UI, with bodies as plug-ins send them."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.api.image_workflows import ImageWorkflow
from app.catalog.catalog import Catalog
from app.settings import PathSettings
from tests.api.test_odd_workflows import drawing
from tests.servers import Server
from tests.site import Site
from tests.site import picture as drawn_picture

PROMPT = "a red circle on a white background"
FEW = {"prompt": PROMPT, "steps": 2, "seed": 7}
TXT2IMG, IMG2IMG, OPTIONS = (f"/sdapi/v1/{name}" for name in ("txt2img", "img2img", "options"))
PLUG_IN = {
    "prompt": PROMPT, "negative_prompt": "", "styles": [], "seed": -1, "subseed": -1,
    "subseed_strength": 0, "sampler_name": "DPM++ 2M", "scheduler": "Karras", "batch_size": 1,
    "n_iter": 1, "steps": 2, "cfg_scale": 7, "width": 512, "height": 512, "tiling": False,
    "restore_faces": False, "denoising_strength": None, "override_settings": {"CLIP_stop_at": 2},
    "override_settings_restore_afterwards": False, "alwayson_scripts": {}, "script_name": None,
    "send_images": True, "save_images": False, "enable_hr": False,
}  # fmt: skip
"""As such programs send it: everything they know."""


@pytest.fixture
def sized(server: Server) -> Iterator[str]:
    """A workflow with inputs for the size, drawn one image at a time."""
    document = drawing("variable:words", variables={"words": PROMPT, "w": 64, "h": 64})
    arguments = document["steps"][0]["pipeline"]["arguments"]
    arguments |= {"width": "variable:w", "height": "variable:h"}
    file = server.workflows / "sized.json"
    file.write_text(json.dumps(document))
    yield "sized"
    file.unlink()


def made(answer: httpx.Response) -> tuple[list[Image.Image], dict[str, Any]]:
    """Returns the images and the information about them."""
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert set(told) == {"images", "parameters", "info"}
    images = [Image.open(io.BytesIO(base64.b64decode(each))) for each in told["images"]]
    return images, json.loads(told["info"])


def error_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    return str(answer.json()["detail"])


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


# --- images --------------------------------------------------------------------------------------


def test_curl_draws_as_plug_ins_do(server: Server) -> None:
    asked = ["curl", "-sS", "--fail-with-body", f"{server.url}{TXT2IMG}", "--json", "@-"]
    body = json.dumps(PLUG_IN).encode()
    answer = json.loads(subprocess.run(asked, input=body, capture_output=True, check=True).stdout)
    info = json.loads(answer["info"])
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as drawn:
        assert drawn.size == (info["width"], info["height"]) == (128, 128)
    assert info["seed"] == info["all_seeds"][0] >= 0
    notes = " ".join(info["notes"])
    for field in ("width", "height", "sampler_name", "negative_prompt", "scheduler", "CLIP_stop"):
        assert field in notes
    assert "steps" not in notes
    assert answer["parameters"]["cfg_scale"] == 7


def test_batches_and_iterations_make_images(rest: httpx.Client) -> None:
    images, info = made(rest.post(TXT2IMG, json={**FEW, "batch_size": 2, "n_iter": 2}))
    assert len(images) == 4
    assert info["all_seeds"] == [7, 7, 9, 9]
    assert len(info["run_ids"]) == 2
    again, _ = made(rest.post(TXT2IMG, json={**FEW, "batch_size": 2}))
    assert [each.tobytes() for each in again] == [each.tobytes() for each in images[:2]]


def test_size_and_seeds_are_followed(rest: httpx.Client, sized: str) -> None:
    body = {
        "prompt": PROMPT, "width": 128, "height": 64, "seed": 3, "batch_size": 2,
        "sampler_name": "Automatic", "override_settings": {"sd_model_checkpoint": sized},
    }  # fmt: skip
    images, info = made(rest.post(TXT2IMG, json=body))
    assert [each.size for each in images] == [(128, 64)] * 2
    assert (info["all_seeds"], info["notes"]) == ([3, 4], [])


def test_workflow_may_be_named_in_the_query(rest: httpx.Client, sized: str) -> None:
    _, info = made(rest.post(f"{TXT2IMG}?workflow={sized}", json={"prompt": PROMPT}))
    assert info["sd_model_name"] == sized


def test_image_is_redrawn(rest: httpx.Client, picture: Path) -> None:
    body = {**FEW, "init_images": [encoded(picture)], "denoising_strength": 0.5}
    images, info = made(rest.post(IMG2IMG, json=body))
    assert (len(images), info["sd_model_name"], info["notes"]) == (1, "variations", [])
    as_data = [f"data:image/png;base64,{body['init_images'][0]}"]
    again, _ = made(rest.post(IMG2IMG, json={**body, "init_images": as_data}))
    assert again[0].tobytes() == images[0].tobytes()


def test_masked_part_is_redrawn(rest: httpx.Client, picture: Path, mask: Path) -> None:
    body = {**FEW, "init_images": [encoded(picture)], "mask": encoded(mask), "mask_blur": 4}
    images, info = made(rest.post(IMG2IMG, json=body))
    assert (len(images), info["sd_model_name"]) == (1, "inpaint")
    assert info["notes"] == ["Not followed here: mask_blur."]


def test_image_may_be_a_url(rest: httpx.Client, site: Site) -> None:
    url = site.put("/init.png", drawn_picture("blue", 128))
    images, _ = made(rest.post(IMG2IMG, json={**FEW, "init_images": [url]}))
    assert len(images) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": 7}, {"steps": "many"}, {"batch_size": 0}, {"n_iter": 17}, {"seed": -2},
        {"init_images": ["x"]}, {"override_settings": []},
    ],
)  # fmt: skip
def test_malformed_fields_are_refused(rest: httpx.Client, body: dict[str, Any]) -> None:
    error_of(rest.post(TXT2IMG, json={**FEW, **body}), 400)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (TXT2IMG, {"steps": 1000}, "inputs.steps"),
        (TXT2IMG, {"batch_size": 8, "n_iter": 8}, "16 images"),
        (TXT2IMG, {"alwayson_scripts": {"controlnet": {}}}, "alwayson_scripts"),
        (IMG2IMG, {"init_images": ["/etc/passwd"]}, "base64"),
        (IMG2IMG, {"init_images": ["eA=="]}, "cannot be read"),
        (IMG2IMG, {"init_images": ["eA=="], "override_settings":
                   {"sd_model_checkpoint": "text-to-image"}}, "takes no image"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused(
    rest: httpx.Client, path: str, body: dict[str, Any], words: str
) -> None:
    assert words in error_of(rest.post(path, json={**FEW, **body}), 422)


def test_unknown_workflow_and_route_are_not_found(rest: httpx.Client) -> None:
    override = {"sd_model_checkpoint": "v1-5-pruned"}
    answer = rest.post(TXT2IMG, json={**FEW, "override_settings": override})
    assert "v1-5-pruned" in error_of(answer, 404)
    error_of(rest.get("/sdapi/v1/loras"), 404)
    error_of(rest.get(TXT2IMG), 405)
    error_of(rest.post(TXT2IMG, json={}, headers={"Origin": "https://evil.example"}), 403)


# --- lists, progress, interruption ---------------------------------------------------------------


def test_workflows_and_the_sampler_are_listed(rest: httpx.Client, server: Server) -> None:
    models = rest.get("/sdapi/v1/sd-models")
    titles = [each["title"] for each in models.json()]
    assert titles[0] == "text-to-image"
    assert "wan21-t2v" not in titles
    assert str(server.workflows) not in models.text
    samplers = rest.get("/sdapi/v1/samplers").json()
    assert samplers == [{"name": "Automatic", "aliases": [], "options": {}}]


def test_options_choose_a_workflow_for_the_sender(
    rest: httpx.Client, sized: str, picture: Path
) -> None:
    anna, ben = {"X-Forwarded-For": "203.0.113.63"}, {"X-Forwarded-For": "203.0.113.64"}

    def current(headers: dict[str, str]) -> str:
        return str(rest.get(OPTIONS, headers=headers).json()["sd_model_checkpoint"])

    def choose(name: str) -> httpx.Response:
        return rest.post(OPTIONS, json={"sd_model_checkpoint": name, "x": 1}, headers=anna)

    assert choose(sized).json() is None
    assert (current(anna), current(ben)) == (sized, "text-to-image")
    _, info = made(rest.post(TXT2IMG, json={"prompt": PROMPT}, headers=anna))
    assert (info["sd_model_name"], info["notes"]) == (sized, [])
    body = {**FEW, "init_images": [encoded(picture)]}
    _, info = made(rest.post(IMG2IMG, json=body, headers=anna))
    assert info["sd_model_name"] == "variations"
    assert f"'{sized}' does not draw from a prompt and an image" in info["notes"][0]
    error_of(choose("v1-5-pruned"), 404)
    assert current(anna) == sized
    choose("text-to-image")
    _, info = made(rest.post(IMG2IMG, json=body, headers=anna))
    assert info["notes"] == []


def test_own_request_is_followed_and_interrupted(rest: httpx.Client) -> None:
    anna, ben = {"X-Forwarded-For": "203.0.113.61"}, {"X-Forwarded-For": "203.0.113.62"}
    answers: list[httpx.Response] = []
    body = {"prompt": PROMPT, "steps": 50, "batch_size": 4}

    def draw() -> None:
        answers.append(rest.post(TXT2IMG, json=body, headers=anna))

    def progress(headers: dict[str, str]) -> dict[str, Any]:
        told = rest.get("/sdapi/v1/progress?skip_current_image=true", headers=headers).json()
        assert set(told) == {"progress", "eta_relative", "state", "current_image", "textinfo"}
        return dict(told)

    drawing = threading.Thread(target=draw)
    drawing.start()
    while not 0 < progress(anna)["progress"] < 1:
        assert drawing.is_alive()
    assert progress(anna)["state"]["job_count"] == 1
    assert (progress(ben)["progress"], progress(ben)["state"]["job_count"]) == (0, 0)
    assert rest.post("/sdapi/v1/interrupt", headers=ben).status_code == 200
    assert progress(anna)["state"]["job_no"] == 0
    assert rest.post("/sdapi/v1/interrupt", headers=anna).json() == {}
    drawing.join(60)
    images, info = made(answers[0])
    assert (images, info["all_seeds"]) == ([], [])
    assert "The run was cancelled." in info["notes"]
    assert progress(anna)["progress"] == 0


def test_workflow_that_only_enlarges_is_not_chosen_to_draw() -> None:
    enlarges, draws = (Catalog(PathSettings()).find(name) for name in ("enlarge", "variations"))
    assert not ImageWorkflow(enlarges).runs_with(image=True, mask=False)
    assert ImageWorkflow(draws).runs_with(image=True, mask=False)
