"""The folder at a real server: over REST, and by gradio's typed endpoint."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import httpx
import numpy as np
import pytest
from gradio_client import Client
from PIL import Image

from tests.models_folder.drawing import SEED, config_for, drawn_by, stock
from tests.servers import Server, started_server
from tests.worker.bench import Bench

SIDE, STEPS = 256, 2
RUNS = "/v1/workflows/checkpoint/runs"
INPUTS = {
    "checkpoint": "dream", "lora": "ink", "lora_scale": 0.8, "vae": "bright", "prompt": "a fox",
    "negative_prompt": "rain", "guidance_scale": 5.0, "steps": STEPS, "width": SIDE,
    "height": SIDE, "pictures": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(webui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DW_MODELS", str(webui / "models"))
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        with started_server(tmp_path_factory.mktemp("server")) as server:
            yield server


@pytest.fixture(scope="module")
def rest(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
def wanted(bench: Bench, place: dict[str, Path], plain: object) -> np.ndarray:
    """The picture of these inputs by stock diffusers, with the configurations that drawing `plain`
    has written."""
    assert plain
    vae = diffusers.AutoencoderKL.from_single_file(
        str(place["bright"]), config=str(config_for(bench, "sd15") / "vae")
    )
    pipeline = stock(bench, place, "dream", vae=vae)
    pipeline.load_lora_weights(str(place["ink"]), adapter_name="a")
    pipeline.set_adapters(["a"], [0.8])
    return drawn_by(
        pipeline, "a fox", negative_prompt="rain", guidance_scale=5.0, width=SIDE, height=SIDE
    )


def error_of(rest: httpx.Client, **inputs: Any) -> str:
    """Returns the only problem of a run that is refused before it begins."""
    answer = rest.post(RUNS, json={"inputs": {**INPUTS, **inputs}})
    assert answer.status_code == 422, answer.text
    [problem] = answer.json()["error"]["problems"]
    return f"{problem['message']} {problem['hint']}".strip()


def test_programs_draw_as_stock_diffusers(
    server: Server, rest: httpx.Client, wanted: np.ndarray, tmp_path: Path
):
    answer = rest.post(f"{RUNS}?wait=120", json={"inputs": INPUTS, "seed": SEED, "fresh": True})
    report = answer.json()
    assert report["state"] == "succeeded", report
    picture = rest.get(report["results"][0]["url"]).content
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), wanted)
    client = Client(
        server.url, verbose=False, analytics_enabled=False, download_files=str(tmp_path)
    )
    done = client.predict(**INPUTS, seed=SEED, api_name="/run_checkpoint")
    client.close()
    assert np.array_equal(np.asarray(Image.open(done["images"][0])), wanted)


def test_workflow_is_described_with_the_names(rest: httpx.Client):
    told = rest.get("/v1/workflows/checkpoint").json()["schema"]["properties"]
    assert told["checkpoint"]["examples"] == ["dream", "xl/realistic_xl"]
    assert told["vae"]["examples"] == ["bright"]


def test_lora_of_another_family_is_refused_over_rest(rest: httpx.Client):
    assert error_of(rest, lora="ink_xl") == (
        "The LoRA 'ink_xl.safetensors' was made for SDXL, but the family of 'dream.safetensors' is"
        " SD 1.5. Take one that was made for SD 1.5."
    )


@pytest.mark.parametrize(
    ("inputs", "nearest"),
    [
        ({"checkpoint": "dreem"}, "dream"),
        ({"lora": "pastel"}, "pastel_loha"),
        ({"vae": "birght"}, "bright"),
    ],
)
def test_wrong_name_is_refused_with_the_nearest_over_rest(
    rest: httpx.Client, inputs: dict[str, str], nearest: str
):
    assert f"Did you mean '{nearest}'" in error_of(rest, **inputs)
