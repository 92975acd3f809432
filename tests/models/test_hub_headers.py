"""Needs of a model that is not local, from the hub's headers; no weights are downloaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from app.dialect.plan import Plan
from app.models.fit import Room
from app.models.hub_headers import HubHeaders, NotAsked
from app.models.needs import lines, weighed_specs
from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.hub import Hub

ROOM = Room(device_bytes=1_000_000_000, ram_bytes=0, total_bytes=1_000_000_000)
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, shapes_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """`test/shapes`, with half of its weights in a variant; and an empty hub cache."""
    model = shutil.copytree(shapes_model, tmp_path / "hub" / "test" / "shapes")
    halved = {name: tensor.half() for name, tensor in load_file(model / UNET).items()}
    save_file(halved, model / UNET.replace(".safe", ".fp16.safe"), {"format": "pt"})
    save_file(halved, model / "shapes-v1.safetensors")
    served = Hub(tmp_path / "hub")
    served.only(monkeypatch, tmp_path / "home")
    yield served
    served.close()


@pytest.fixture
def headers() -> Iterator[HubHeaders]:
    opened = HubHeaders()
    yield opened
    opened.close()


def planned(folder: Path, model: str = "test/shapes", **loading: Any) -> Plan:
    vae = loading.pop("vae", None)
    pipeline = {
        "configuration": {"component_type": "StableDiffusionPipeline"},
        "from_pretrained_arguments": {"model_name": model, **loading},
        "arguments": {"prompt": "a star"},
        **({"vae": vae} if vae else {}),
    }
    step = {"name": "draw", "pipeline": pipeline, "result": {"content_type": "image/png"}}
    path = folder / "flow.json"
    path.write_text(json.dumps({"id": "flow", "steps": [step]}))
    return make_plan(path, {}, paths=PathSettings(models=()))


OWN_VAE = {
    "configuration": {"component_type": "AutoencoderKL"},
    "from_pretrained_arguments": {"model_name": "test/vae", "torch_dtype": "torch.float16"},
}


@pytest.mark.parametrize(
    "loading",
    [{}, {"torch_dtype": "torch.bfloat16"}, {"variant": "fp16"}, {"vae": OWN_VAE}],
    ids=["as they are", "in another dtype", "a variant", "a component of a repository of its own"],
)
def test_headers_equal_downloaded_files(
    hub: Hub, headers: HubHeaders, tmp_path: Path, loading: dict[str, Any]
):
    shutil.copytree(hub.folder / "test" / "shapes" / "vae", hub.folder / "test" / "vae")
    plan = planned(tmp_path, **loading)
    told = lines(plan, ROOM, headers.ask)
    assert " of weights (unet " in told[0]
    for name in ("shapes", "vae"):
        huggingface_hub.snapshot_download(f"test/{name}")
    assert told == lines(plan, ROOM)


def test_modular_pipeline_needs_come_from_headers(hub: Hub, headers: HubHeaders, tmp_path: Path):
    path = tmp_path / "flow.json"
    pipeline = {
        "configuration": {"component_type": "StableDiffusionXLModularPipeline"},
        "from_pretrained_arguments": {"model_name": "test/shapes"},
        "arguments": {"prompt": "a star"},
    }
    step = {"name": "draw", "pipeline": pipeline, "result": {"content_type": "image/png"}}
    path.write_text(json.dumps({"id": "flow", "steps": [step]}))
    plan = make_plan(path, {}, paths=PathSettings(models=()))
    told = lines(plan, ROOM, headers.ask)
    assert " of weights (unet " in told[0]
    huggingface_hub.snapshot_download("test/shapes")
    assert told == lines(plan, ROOM)


def test_headers_fetch_no_tensor_and_store_nothing(hub: Hub, headers: HubHeaders, tmp_path: Path):
    plan = planned(tmp_path)
    found = weighed_specs(plan.steps[0], headers.ask)
    assert {each.weight_bytes for each in found.components} >= {16_874_768, 3_778_268, 1_627_392}
    assert {path for path in hub.fetched if path.endswith(".safetensors")} == {
        UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
    }  # fmt: skip
    assert max(hub.sent_bytes.values()) <= 100_001
    assert "has been downloaded" in lines(plan, ROOM)[0]


def test_hub_is_asked_once(hub: Hub, headers: HubHeaders, tmp_path: Path):
    plan = planned(tmp_path)
    with pytest.raises(NotAsked):
        lines(plan, ROOM, headers.known)
    assert hub.requests == []
    told = lines(plan, ROOM, headers.ask)
    asked = len(hub.requests)
    assert lines(plan, ROOM, headers.ask) == lines(plan, ROOM, headers.known) == told
    assert len(hub.requests) == asked


def test_hub_is_not_asked_for_local_model(hub: Hub, headers: HubHeaders, tmp_path: Path):
    shutil.copytree(hub.folder / "test" / "shapes" / "vae", hub.folder / "test" / "vae")
    for name in ("shapes", "vae"):
        huggingface_hub.snapshot_download(f"test/{name}")
    hub.requests.clear()
    assert "22 MB" in lines(planned(tmp_path), ROOM, headers.ask)[0]
    assert "20 MB" in lines(planned(tmp_path, vae=OWN_VAE), ROOM, headers.ask)[0]
    assert hub.requests == []


def test_hub_is_not_asked_offline(
    hub: Hub, headers: HubHeaders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for find in (headers.ask, headers.known):
        assert lines(planned(tmp_path), ROOM, find) == [
            "flow: memory needs unknown until 'test/shapes' has been downloaded."
        ]
    assert hub.requests == []


def test_failing_hub_is_reported_and_not_asked_for_a_while(
    hub: Hub, headers: HubHeaders, tmp_path: Path
):
    def told(**asked: str) -> str:
        plan = planned(tmp_path, **asked)
        sentence = lines(plan, ROOM, headers.ask)
        hub.requests.clear()
        assert lines(plan, ROOM, headers.ask) == lines(plan, ROOM, headers.known) == sentence
        assert hub.requests == []
        before, _, why = sentence[0].partition("has been downloaded: ")
        assert before.startswith("flow: memory needs unknown until 'test/")
        return why

    known = hub.folder / "test"
    (known / "nothing").mkdir()
    (known / "nothing" / "README.md").write_text("no model")
    shutil.copytree(known / "shapes", known / "broken")
    (known / "broken" / UNET).write_bytes(b"\x00" * 100)
    shutil.copytree(known / "shapes", known / "gated")
    hub.gated = "test/gated"
    no_model = "the hub has no such model, or asks for a login (HF_TOKEN)."
    assert told(model="test/missing") == no_model
    assert told(model="test/gated") == "the hub shows it to those only who may use it (HF_TOKEN)."
    assert told(model="test/nothing") == "on the hub it has no such file."
    assert told(model="test/broken") == "what the hub has of it cannot be read."
    with hub.gone():
        assert told() == "the hub does not answer (ConnectError)."
