"""The shipped workflows for checkpoints of one's own: the lists of their forms, and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.api.schemas import inputs_schema
from app.catalog.catalog import Catalog
from app.settings import PathSettings
from tests.engines import Finished
from tests.models_folder.drawing import control_image, drawn_by, stock
from tests.standins.parts import quiet
from tests.standins.webui import link_as_comfyui
from tests.worker.bench import Bench, pixels

WORKFLOWS = (
    "checkpoint", "checkpoint-controlnet", "checkpoint-inpaint", "checkpoint-two-passes",
    "checkpoint-variations",
)  # fmt: skip
LISTED = {
    "checkpoint": ("dream", "xl/realistic_xl"),
    "lora": ("chalk", "glow_dora", "ink", "ink_xl", "paper_lokr", "pastel_loha"),
    "vae": ("bright",),
    "controlnet": ("canny_bare", "canny_xl", "control_sd15_canny"),
}
SIDE = 256
SIZES = {"width": SIDE, "height": SIDE, "enlarged_width": SIDE, "enlarged_height": SIDE}
"""The least that the forms allow."""
SMALL = (64, 64)
"""Of pictures that are given."""


def catalog(models: Path) -> Catalog:
    return Catalog(PathSettings(models=(models,)))


def run(bench: Bench, workflow: str, **inputs: Any) -> Finished:
    """Runs the shipped workflow with small values for what it asks for."""
    control_image().save(bench.folder / "a.png")
    Image.new("L", SMALL, "white").save(bench.folder / "mask.png")
    given = {
        **SIZES,
        "image": str(bench.folder / "a.png"),
        "mask_image": str(bench.folder / "mask.png"),
        "steps": 3,
        "controlnet": "control_sd15_canny",
        **inputs,
    }
    entry = catalog(bench.models).find(workflow)
    document = json.loads(Path(entry.path).read_text())
    if workflow == "checkpoint-controlnet":
        document["steps"][0]["task"]["arguments"]["resolution"] = SMALL[0]
    if workflow == "checkpoint-inpaint":
        document["steps"][0]["pipeline"]["arguments"] |= {"width": SMALL[0], "height": SMALL[1]}
    asked = {spec.name for spec in entry.inputs}
    plan = bench.plan(document, **{k: v for k, v in given.items() if k in asked})
    with quiet():
        return bench.run(plan)


@pytest.mark.parametrize("workflow", WORKFLOWS)
@pytest.mark.parametrize("layout", ["A1111", "ComfyUI"])
def test_forms_list_the_files_by_name(webui: Path, tmp_path: Path, layout: str, workflow: str):
    models = webui / "models"
    if layout == "ComfyUI":
        link_as_comfyui(webui, tmp_path)
        models = tmp_path / "models"
    entry = catalog(models).find(workflow)
    listed = {spec.name: spec.choices for spec in entry.inputs if spec.kind == "model"}
    assert listed == {name: choices for name, choices in LISTED.items() if name in listed}
    assert {"checkpoint", "lora"} <= listed.keys()
    properties = inputs_schema(entry)["properties"]
    assert properties["checkpoint"]["examples"] == [*LISTED["checkpoint"]]


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_workflow_runs_with_and_without_its_files(bench: Bench, workflow: str):
    [alone] = pixels(run(bench, workflow, checkpoint="dream"))
    [changed] = pixels(run(bench, workflow, checkpoint="dream", lora="pastel_loha", vae="bright"))
    assert not np.array_equal(alone, changed)


@pytest.mark.parametrize(("checkpoint", "name"), [("dream", "ink"), ("realistic_xl", "ink_xl")])
@pytest.mark.usefixtures("plain")
def test_checkpoint_workflow_draws_as_stock_diffusers(
    bench: Bench, place: dict[str, Path], checkpoint: str, name: str
):
    [picture] = pixels(
        run(
            bench, "checkpoint", checkpoint=checkpoint, lora=name, lora_scale=0.8, prompt="a fox",
            negative_prompt="rain", guidance_scale=5.0,
        )
    )  # fmt: skip
    pipeline = stock(bench, place, checkpoint)
    pipeline.load_lora_weights(str(place[name]), adapter_name="a")
    pipeline.set_adapters(["a"], [0.8])
    wanted = drawn_by(
        pipeline, "a fox", negative_prompt="rain", guidance_scale=5.0, num_inference_steps=3,
        width=SIDE, height=SIDE,
    )  # fmt: skip
    assert np.array_equal(picture, wanted)
