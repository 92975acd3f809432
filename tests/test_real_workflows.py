"""Documents that others wrote run on tiny models of the classes they name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.protocol import Loading
from app.results.image import read_record
from app.settings import PathSettings
from app.workflow.planner import make_plan
from tests.standins import build_flux, build_sd, build_sdxl, build_sdxl_refiner
from tests.standins.ip_adapter import build_ip_adapter
from tests.standins.lora import build_flux_lora
from tests.worker.bench import Bench, pixels, same

FLUX, LORAS = "black-forest-labs/FLUX.1-dev", "ali-vilab/In-Context-LoRA"
COMPONENTS = (
    "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae",
)  # fmt: skip
SIDE_PX = 64


def test_ten_steps_of_one_model_load_each_component_once(real_workflows: Path, tmp_path: Path):
    """The incumbent loads this model ten times for this document."""
    workflow = real_workflows / "flux" / "FluxInContext.json"
    steps = json.loads(workflow.read_text())["steps"]
    assert len(steps) == 10
    build_flux(tmp_path / "models" / FLUX)
    changes: dict[str, Any] = {}
    for index, step in enumerate(steps):
        arguments = f"/steps/{index}/pipeline/arguments"
        less = {"width": SIDE_PX, "height": SIDE_PX, "num_inference_steps": 1}
        changes |= {f"{arguments}/{name}": value for name, value in less.items()}
        weight_name = step["pipeline"]["loras"][0]["weight_name"]
        if weight_name.startswith("variable:"):
            weight_name = "couple-profile.safetensors"
        build_flux_lora(
            tmp_path / "models" / FLUX, tmp_path / "models" / LORAS / weight_name, seed=index
        )
    plan = make_plan(
        workflow, {}, paths=PathSettings(models=(tmp_path / "models",)), seed=1, changes=changes
    )
    bench = Bench(tmp_path)
    finished = bench.run(plan)
    assert len({picture.tobytes() for picture in pixels(finished)}) == 10
    loads = [event for event in finished.events if isinstance(event, Loading)]
    # Each load is told twice: when it begins, and when its bytes are there.
    assert Counter(event.component for event in loads) == dict.fromkeys(COMPONENTS, 2)
    assert {event.step for event in loads} == {"couple"}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
def test_a_refiner_works_with_the_autoencoder_and_text_encoder_of_its_base(
    real_workflows: Path, tmp_path: Path
):
    for part, build in (("base", build_sdxl), ("refiner", build_sdxl_refiner)):
        build(tmp_path / "models" / f"stabilityai/stable-diffusion-xl-{part}-1.0", seed=len(part))
    steps = {f"/steps/{n}/pipeline/arguments/num_inference_steps": 5 for n in (0, 1)}
    plan = make_plan(
        real_workflows / "archive" / "sdxl.json",
        {},
        paths=PathSettings(models=(tmp_path / "models",)),
        seed=1,
        changes=steps,
    )
    bench = Bench(tmp_path)
    cold = bench.run(plan)
    loaded = [title for title in cold.success.loaded if "refiner" in title]
    assert not any(title.startswith(("vae", "text_encoder_2")) for title in loaded)
    warm = bench.run(plan)
    assert warm.success.loaded == ()
    assert same(cold, warm)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_adapters_of_two_families_look_at_a_picture(real_workflows: Path, tmp_path: Path):
    models = tmp_path / "models"
    for name, build, folder, kind in (
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", build_sd, "models", "sd15"),
        ("stabilityai/stable-diffusion-xl-base-1.0", build_sdxl, "sdxl_models", "sdxl"),
    ):
        build(models / name)
        adapters = models / "h94/IP-Adapter" / folder
        build_ip_adapter(models / name, adapters, f"ip-adapter_{kind}.safetensors")
    workflow = tmp_path / "ip-adapter.json"
    workflow.write_bytes((real_workflows / "archive" / workflow.name).read_bytes())
    Image.new("RGB", (32, 32), "red").save(tmp_path / "seen.png")
    arguments = [f"/steps/{index}/pipeline/arguments" for index in (0, 1)]
    changes: dict[str, Any] = {f"{each}/num_inference_steps": 2 for each in arguments}
    # Pictures of the network are not fetched yet.
    changes |= {f"{each}/ip_adapter_image/location": "seen.png" for each in arguments}
    plan = make_plan(
        workflow,
        {},
        paths=PathSettings(models=(models,), media=(tmp_path,)),
        seed=1,
        changes=changes,
    )
    bench = Bench(tmp_path)
    cold = bench.run(plan)
    assert (
        sum(title.startswith("image_encoder of IP-Adapter") for title in cold.success.loaded) == 2
    )
    warm = bench.run(plan)
    assert warm.success.loaded == ()
    assert same(cold, warm)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("workflow", "model", "build"),
    [
        ("attention_processors_example.json", "runwayml/stable-diffusion-v1-5", build_sd),
        ("flux/FluxDevFirstBlockCache.json", FLUX, build_flux),
        ("tasks/MetadataEmbed.json", FLUX, build_flux),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".json") else "",
)
def test_settings_of_one_step_run_as_their_documents_say(
    real_workflows: Path, tmp_path: Path, workflow: str, model: str, build: Callable[[Path], None]
):
    build(tmp_path / "models" / model)
    less = {"width": SIDE_PX, "height": SIDE_PX, "num_inference_steps": 4}
    plan = make_plan(
        real_workflows / workflow,
        {},
        paths=PathSettings(models=(tmp_path / "models",)),
        seed=1,
        changes={f"/steps/0/pipeline/arguments/{name}": value for name, value in less.items()},
    )
    bench = Bench(tmp_path)
    cold = bench.run(plan)
    record = read_record(Path(cold.results[0].path))
    assert record is not None
    assert (record["workflow"], record["seed"]) == (plan.document, 1)
    warm = bench.run(plan)
    assert warm.success.loaded == ()
    assert same(cold, warm)
