"""Checkpoints and LoRAs in the folders of A1111 and ComfyUI, named by bare name, without a
configuration and without the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.dialect.plan import PipelineStep
from tests.standins.families import build_narrow
from tests.standins.parts import quiet
from tests.worker.bench import SHAPES, Bench, Document, document, pixels, same, step

SIZE = {"width": 64, "height": 64}
SEED = 7
KINDS = {"sd15": "", "sdxl": "XL", "sdxl-refiner": "XLImg2Img"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small checkpoints, one for each family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in KINDS:
        build_narrow(family, folder / f"{family}.safetensors")
    return folder


def drawing(family: str, name: str, bench: Bench, **arguments: Any) -> Document:
    """Returns a document that draws with the checkpoint of this name."""
    size: Document = SIZE
    if family == "sdxl-refiner":
        shutil.copyfile(Path(SHAPES).parents[1] / "docs" / "screenshot.png", bench.folder / "a.png")
        size = {"image": "a.png", "strength": 1.0}
    wanted = step(kind=KINDS[family], **size, **arguments)
    wanted["pipeline"]["from_pretrained_arguments"] = {"from_single_file": name}
    return document(wanted)


def put(file: Path, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(file, place))


@pytest.mark.parametrize(
    ("family", "folder"), [("sd15", "Stable-diffusion"), ("sdxl", "checkpoints/realistic")]
)
def test_checkpoint_draws_as_stock_diffusers_does(
    checkpoints: Path, bench: Bench, family: str, folder: str
):
    file = bench.models / folder / "dream_v8.safetensors"
    put(checkpoints / f"{family}.safetensors", file)
    wanted = bench.plan(drawing(family, "dream_v8", bench))
    with quiet():
        drawn = pixels(bench.run(wanted))
    [config] = (bench.folder / "outputs" / ".configs").iterdir()
    stock = getattr(diffusers, f"StableDiffusion{KINDS[family]}Pipeline").from_single_file(
        str(file), config=str(config), local_files_only=True, add_watermarker=None
    )
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    with quiet():
        made = stock("a red circle", num_inference_steps=2, generator=generator, **SIZE)
        assert bench.run(wanted).success.loaded == ()
    assert np.array_equal(drawn[0], np.asarray(made.images[0]))


def test_refiner_runs_without_a_first_text_encoder(checkpoints: Path, bench: Bench):
    put(checkpoints / "sdxl-refiner.safetensors", bench.models / "checkpoints/refine.safetensors")
    with quiet():
        finished = bench.run(drawing("sdxl-refiner", "refine", bench))
    named = {title.partition(" ")[0] for title in finished.success.loaded}
    assert named == {"unet", "vae", "text_encoder_2", "tokenizer_2", "scheduler"}


def test_configurations_that_were_deleted_are_written_again(checkpoints: Path, bench: Bench):
    put(checkpoints / "sd15.safetensors", bench.models / "checkpoints" / "a.safetensors")
    wanted = drawing("sd15", "a", bench)
    first = bench.run(wanted)
    plan = bench.plan(wanted)
    shutil.rmtree(bench.folder / "outputs" / ".configs")
    bench.free()
    assert same(first, bench.run(plan))


def test_configuration_that_cannot_be_written_is_reported(checkpoints: Path, bench: Bench):
    put(checkpoints / "sd15.safetensors", bench.models / "checkpoints" / "a.safetensors")
    (bench.folder / "outputs").mkdir(exist_ok=True)
    (bench.folder / "outputs" / ".configs").touch()
    error = bench.refused(drawing("sd15", "a", bench))
    assert error.message == (
        "The configuration of 'a.safetensors' cannot be written to the results folder."
    )
    assert ".configs" in error.hint


def test_lora_of_a_folder_changes_the_picture(bench: Bench):
    [outline] = (Path(SHAPES) / "outline").glob("*.safetensors")
    put(outline, bench.models / "Lora" / "style" / "outline.safetensors")
    named = document(step(blocks={"loras": [{"model_name": "outline", "scale": 0.7}]}))
    by_path = document(step(blocks={"loras": [{"model_name": str(outline), "scale": 0.7}]}))
    drawn = bench.run(named)
    assert same(drawn, bench.run(by_path))
    assert not same(drawn, bench.run(document(step())))


def test_vae_of_a_folder_replaces_that_of_the_checkpoint(checkpoints: Path, bench: Bench):
    put(checkpoints / "sdxl.safetensors", bench.models / "checkpoints" / "a.safetensors")
    weights = {
        name.removeprefix("first_stage_model."): tensor * 1.1
        for name, tensor in load_file(checkpoints / "sdxl.safetensors").items()
        if name.startswith("first_stage_model.")
    }
    (bench.models / "VAE").mkdir()
    save_file(weights, bench.models / "VAE" / "bright.safetensors")
    wanted = drawing("sdxl", "a", bench)
    with quiet():
        plain = bench.run(wanted)
        wanted["steps"][0]["pipeline"]["vae"] = {
            "configuration": {"component_type": "AutoencoderKL"},
            "from_pretrained_arguments": {"from_single_file": "bright"},
        }
        finished = bench.run(wanted)
    assert finished.success.loaded == ("vae of bright.safetensors (float32)",)
    assert not same(plain, finished)
    # By its tensors it could be of Stable Diffusion 1.5, whose latents have another scale.
    entries = {entry.title: entry.component for entry in bench.runner.residency.entries}
    assert entries["vae of bright.safetensors (float32)"].config.scaling_factor == 0.13025


def test_plan_names_the_checkpoint_as_the_document_does(checkpoints: Path, bench: Bench):
    put(checkpoints / "sd15.safetensors", bench.models / "checkpoints" / "x" / "a.safetensors")
    [planned] = bench.plan(drawing("sd15", "x/a", bench)).steps
    assert isinstance(planned, PipelineStep)
    assert planned.model == "x/a"
