"""An autoencoder in a file with its first authors' names is described by the pipeline's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.standins.checkpoint import build_original_vae
from tests.worker.bench import SHAPES, Bench, Document, document, same, step


def drawing(model: Path, file: Path) -> Document:
    block = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {"from_single_file": str(file)},
    }
    return document(step(model=model, loading={"safety_checker": None}, blocks={"vae": block}))


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
@pytest.mark.parametrize("bundled", [False, True])
def test_original_vae_is_described_by_the_pipelines_own(
    prefix: str, bundled: bool, tiny: Path, bench: Bench, tmp_path: Path
):
    model = Path(SHAPES) if bundled else tiny
    build_original_vae(model, tmp_path / "vae.safetensors", prefix)
    whole = bench.run(document(step(model=model, loading={"safety_checker": None})))
    drawn = bench.run(drawing(model, tmp_path / "vae.safetensors"))
    assert "vae of vae.safetensors (float32)" in drawn.success.loaded
    assert same(whole, drawn)


OTHERS = {
    "other latents": {"latent_channels": 16},
    "other widths": {"block_out_channels": [32, 64]},
    "more layers": {"layers_per_block": 3},
    "more blocks": {"block_out_channels": [16, 32, 32]},
    "no quantisation": {"use_quant_conv": False, "use_post_quant_conv": False},
    "another class": {"_class_name": "AutoencoderTiny"},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=[*OTHERS])
def test_unfit_configuration_of_the_pipeline_is_not_used(
    changes: Document, tiny: Path, bench: Bench, tmp_path: Path
):
    """Then the file's tensors tell the settings."""
    build_original_vae(tiny, tmp_path / "vae.safetensors", "")
    model = shutil.copytree(tiny, tmp_path / "model")
    config = model / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    drawn = bench.run(drawing(model, tmp_path / "vae.safetensors"))
    assert same(drawn, bench.run(document(step(model=tiny, loading={"safety_checker": None}))))
