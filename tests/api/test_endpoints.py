"""Every endpoint by its name, as a script calls it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.media.films import RATE, film, tone
from tests.servers import Server
from tests.site import Site

FEW = {"prompt": "a red circle on a white background", "steps": 2}


def test_endpoint_names_are_stable(client: Client) -> None:
    listed = {entry["name"] for entry in client.predict(api_name="/list_workflows")}
    named = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert named == {
        "/generate", "/follow_job", "/list_workflows", "/describe_workflow", "/cancel_job",
        "/status", "/free_gpu",
        *(f"/run_{name.replace('-', '_')}" for name in listed),
    }  # fmt: skip


def test_workflow_endpoint_has_typed_parameters(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    described = {
        each["parameter_name"]: (
            set(each["python_type"]["type"].split(" | ")),
            each.get("parameter_default"),
        )
        for each in endpoints["/run_text_to_image"]["parameters"]
    }
    assert described == {
        "prompt": ({"str"}, "a red circle on a white background"),
        "pictures": ({"int"}, 1),
        "steps": ({"int"}, 20),
        "guidance_scale": ({"float"}, 2.5),
        "seed": ({"int", "None"}, None),
    }


def test_workflow_runs_by_its_own_endpoint(client: Client) -> None:
    done = client.predict(**FEW, pictures=2, seed=7, api_name="/run_text_to_image")
    assert (done["event"], done["seed"], done["workflow"]) == ("done", 7, "text-to-image")
    assert done["variables"] == {**FEW, "pictures": 2, "guidance_scale": 2.5}
    for image in done["images"]:
        with Image.open(image) as drawn:
            assert drawn.size == (128, 128)
    assert len(done["images"]) == 2
    record = json.loads(Path(done["metadata"][0]).read_text())
    assert record["seed"] == 7


@pytest.mark.parametrize("seed", [1234567890123456789, 2**53 + 1, 2**64 - 1])
def test_given_seed_of_any_size_is_used(client: Client, seed: int) -> None:
    done = client.predict(**FEW, seed=seed, api_name="/run_text_to_image")
    assert done["seed"] == seed
    assert json.loads(Path(done["metadata"][0]).read_text())["seed"] == seed


def test_random_seed_is_exact_in_javascript(client: Client) -> None:
    done = client.predict(**FEW, api_name="/run_text_to_image")
    assert 0 <= done["seed"] < 2**53


def test_large_integer_reaches_check_unchanged(client: Client) -> None:
    number = 1234567890123456789
    for call in (
        {"steps": number, "api_name": "/run_text_to_image"},
        {"workflow": "text-to-image", "variables": {"steps": number}, "api_name": "/generate"},
        {
            "workflow": "text-to-image", "variables": {}, "api_name": "/generate",
            "changes": {"/steps/0/pipeline/arguments/num_inference_steps": number},
        },
    ):  # fmt: skip
        with pytest.raises(AppError, match=str(number)):
            client.predict(**call)


def test_integer_beyond_64_bits_is_refused(client: Client) -> None:
    with pytest.raises(AppError, match="holds a whole number outside"):
        client.predict(workflow="text-to-image", variables={"steps": 2**64}, api_name="/generate")
    with pytest.raises(AppError, match="is outside 0 to 18446744073709551615"):
        client.predict(**FEW, seed=2**64, api_name="/run_text_to_image")


def test_identical_request_reuses_result(client: Client) -> None:
    first, again = (client.predict(**FEW, seed=11, api_name="/run_text_to_image") for _ in range(2))
    assert (first["unchanged"], again["unchanged"]) == (False, True)
    assert first["sentence"].startswith("Done in ")
    assert re.fullmatch(r"Unchanged: from \d\d:\d\d, seed 11", again["sentence"])
    other = client.predict(**FEW, seed=12, api_name="/run_text_to_image")
    assert not other["unchanged"]


def test_cached_step_is_an_event(client: Client) -> None:
    def events(strength: float) -> list[dict[str, Any]]:
        variables = {"prompt": "a red star", "steps": 4, "strength": strength}
        return list(
            client.submit(
                workflow="draw-then-outline", variables=variables, seed=11, api_name="/generate"
            )
        )

    whole, edited = events(0.9), events(0.8)
    (remembered,) = [event for event in edited if event["event"] == "remembered"]
    assert (remembered["step"], remembered["made_by"]) == ("draw", whole[0]["job_id"])
    assert edited[-1]["sentence"].endswith("1 of 2 parts remembered")


def test_change_applies_to_one_run(client: Client) -> None:
    changes = {f"/steps/0/pipeline/arguments/{side}": 64 for side in ("width", "height")}
    done = client.submit(
        workflow="text-to-image", variables=FEW, changes=changes, api_name="/generate"
    ).result()
    with Image.open(done["images"][0]) as drawn:
        assert drawn.size == (64, 64)
    assert json.loads(Path(done["metadata"][0]).read_text())["changes"] == changes
    with pytest.raises(AppError, match="There is no 'pipelin'"):
        client.predict(
            workflow="text-to-image", variables={}, changes={"/steps/0/pipelin/seed": 1},
            api_name="/generate",
        )  # fmt: skip


def test_uploaded_image_is_varied(client: Client, picture: Path) -> None:
    done = client.predict(image=handle_file(picture), steps=4, api_name="/run_variations")
    assert len(done["images"]) == 1


def test_image_outside_mask_is_unchanged(client: Client, picture: Path, mask: Path) -> None:
    done = client.predict(
        image=handle_file(picture),
        mask_image=handle_file(mask),
        steps=4,
        api_name="/run_inpaint",
    )
    with Image.open(done["images"][0]) as drawn:
        red, green, blue = drawn.convert("RGB").getpixel((45, 64))
    assert red > 200
    assert max(green, blue) < 60


def test_workflow_of_two_steps_returns_final_results(client: Client) -> None:
    done = client.predict(steps=2, api_name="/run_draw_then_outline")
    assert done["event"] == "done"
    assert done["images"]


def test_workflows_are_listed_and_described(client: Client) -> None:
    listed = {entry["name"]: entry for entry in client.predict(api_name="/list_workflows")}
    assert listed["text-to-image"]["ready"]
    assert listed["text-to-image"]["endpoint"] == "/run_text_to_image"
    described = client.predict(name="text-to-image", api_name="/describe_workflow")
    steps = next(spec for spec in described["inputs"] if spec["name"] == "steps")
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (1, 50, 20)


@pytest.mark.parametrize("name", ["/etc/passwd", "../workflows/text-to-image", "text-to-imag", ""])
def test_only_catalog_names_are_workflows(client: Client, name: str) -> None:
    with pytest.raises(AppError, match="There is no workflow"):
        client.predict(name=name, api_name="/describe_workflow")
    with pytest.raises(AppError, match="There is no workflow"):
        client.predict(workflow=name, variables={}, api_name="/generate")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../models/shapes/preview.json", {"path": "/etc/passwd"}, 3]
)
def test_image_path_is_refused(client: Client, path: object) -> None:
    with pytest.raises(AppError, match="has to be an uploaded file"):
        client.predict(workflow="variations", variables={"image": path}, api_name="/generate")
    with pytest.raises(AppError, match="has to be an uploaded file"):
        client.predict(image=path, api_name="/run_variations")


@pytest.mark.parametrize("sent", [handle_file, str], ids=["as a file", "as a text"])
def test_image_may_be_a_url(
    client: Client, site: Site, picture: Path, sent: Callable[[str], object]
) -> None:
    url = site.put("/circle.png", picture.read_bytes())
    asked = len(site.asked)
    done = client.predict(image=sent(url), steps=4, seed=3, api_name="/run_variations")
    assert len(done["images"]) == 1
    assert json.loads(Path(done["metadata"][0]).read_text())["inputs"]["image"] == url
    assert len(site.asked) == asked + 1


def test_refused_url_is_not_fetched(client: Client) -> None:
    other = Site()
    try:
        url = other.put("/circle.png")
        with pytest.raises(AppError, match="is not allowed for media"):
            client.predict(image=handle_file(url), api_name="/run_variations")
        assert other.asked == []
    finally:
        other.close()


def test_path_disguised_as_upload_is_refused(server: Server) -> None:
    """Gradio itself refuses it: the file is not one of its uploads."""
    picture = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": ["variations", {"image": picture}, None, None, False]})
    request = urllib.request.Request(
        f"{server.url}/gradio_api/call/generate",
        data=body.encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(
        f"{server.url}/gradio_api/call/generate/{event}", timeout=20
    ) as answer:
        told = answer.read().decode()
    assert told.startswith("event: error")


def test_all_problems_are_reported(client: Client) -> None:
    variables = {"steps": 99, "guidance_scale": "much", "colour": "red"}
    with pytest.raises(AppError) as refused:
        client.predict(workflow="text-to-image", variables=variables, api_name="/generate")
    told = str(refused.value)
    assert "99 is outside 1 to 50" in told
    assert "A number is needed, not 'much'" in told
    assert "This workflow has no variable 'colour'" in told


@pytest.mark.parametrize("seed", ["many", 1.5, True])
def test_non_integer_seed_is_refused(client: Client, seed: object) -> None:
    with pytest.raises(AppError, match="whole number"):
        client.predict(workflow="text-to-image", variables=FEW, seed=seed, api_name="/generate")


def test_freed_model_is_loaded_again(client: Client) -> None:
    client.predict(**FEW, api_name="/run_text_to_image")
    freed = client.predict(api_name="/free_gpu")
    assert "unet of shapes" in freed["sentence"]
    assert client.predict(api_name="/status")["held"] == []
    done = client.predict(**FEW, api_name="/run_text_to_image")
    assert any("unet" in title for title in done["loaded"])
    assert client.predict(api_name="/status")["held"]
    with pytest.raises(AppError, match="when_idle, cancel_and_free"):
        client.predict(mode="at_once", api_name="/free_gpu")


def test_status_shows_size_and_bound_of_each_cache(client: Client) -> None:
    # Results of a random seed are not cached.
    client.predict(**FEW, seed=20_261, api_name="/run_text_to_image")
    status = client.predict(api_name="/status")
    caches = {each["name"]: each for each in status["bounded"]}
    assert caches.keys() == {
        "LoRAs", "prompts", "step results", "components without weights", "maps for previews",
    }  # fmt: skip
    assert caches["step results"]["held_bytes"] > 0
    assert all(each["held_bytes"] <= each["max_bytes"] for each in caches.values())
    assert status["slots"][0]["bounded"] == status["bounded"]


def test_unknown_job_cannot_be_cancelled(client: Client) -> None:
    with pytest.raises(AppError, match="There is no run 'none'"):
        client.predict(job_id="none", api_name="/cancel_job")


def test_health_checks_reveal_no_details(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/healthz", timeout=5) as answer:
        assert json.load(answer) == {"status": "ok"}
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=5) as answer:
        assert json.load(answer) == {"ready": True}


def test_uploaded_video_and_audio_are_combined(
    client: Client, server: Server, tmp_path: Path
) -> None:
    steps = [
        {"name": "cut", "task": {"command": "slice_audio", "arguments": {
            "audio": "variable:music", "start_seconds": 0, "duration_seconds": 0.5}}},
        {"name": "pair", "task": {"command": "pair_audio", "arguments": {
            "video": "variable:start_video", "audio": "previous_result:cut", "sample_rate": RATE}},
         "result": {"content_type": "video/mp4"}},
    ]  # fmt: skip
    document = {"id": "pair", "variables": {"start_video": None, "music": ""}, "steps": steps}
    (server.workflows / "pair.json").write_text(json.dumps(document))
    described = client.predict(name="pair", api_name="/describe_workflow")
    kinds = {spec["name"]: spec["kind"] for spec in described["inputs"]}
    assert kinds == {"start_video": "video", "music": "audio"}
    variables = {
        "start_video": handle_file(film(tmp_path / "film.mp4")),
        "music": handle_file(tone(tmp_path / "tone.wav")),
    }
    *_, done = client.submit(workflow="pair", variables=variables, api_name="/generate")
    with av.open(done["images"][0]) as made:
        assert (len(made.streams.video), len(made.streams.audio)) == (1, 1)
    with pytest.raises(AppError, match="has to be an uploaded file"):
        client.predict(
            workflow="pair", variables={**variables, "music": "/etc/a.wav"}, api_name="/generate"
        )
