"""A component without all of its weights is refused by name, and nothing of it is held."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.errors import ErrorReport
from tests.standins.checkpoint import build_checkpoint
from tests.worker.bench import Bench, Document, document, same, step

WHOLE = {"safety_checker": None}
MISSING = {
    "unet": ("diffusion_pytorch_model", "mid_block.", "mid_block.attentions.0.norm.weight"),
    "vae": ("diffusion_pytorch_model", "decoder.mid_block.", "decoder.mid_block."),
    "text_encoder": ("model", "layers.1.", "encoder.layers.1.layer_norm1.bias"),
}
"""By component, its file, the tensors to leave out, and the beginning of the first one's name."""
IN_CHECKPOINT = {
    "unet": "model.diffusion_model.middle_block",
    "vae": "first_stage_model.decoder.mid",
    "text_encoder": "cond_stage_model.transformer.text_model.encoder.layers.1",
}


def without(source: Path, file: Path, part_of_name: str) -> None:
    """Writes the weights in this file without those tensors."""
    weights = load_file(source)
    kept = {name: tensor for name, tensor in weights.items() if part_of_name not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})


def refused(bench: Bench, wanted: Document) -> ErrorReport:
    """Returns the error of two runs, which is the same."""
    ended = [bench.run(wanted).terminal for _ in range(2)]
    assert ended[0].type == ended[1].type == "run_failed"
    assert ended[0].error.message == ended[1].error.message
    return ended[0].error


@pytest.mark.parametrize("name", MISSING)
def test_component_without_some_weights_is_refused_by_their_names(
    bench: Bench, tiny: Path, tmp_path: Path, name: str
):
    stem, left_out, first = MISSING[name]
    shutil.copytree(tiny, tmp_path / "model")
    file = tmp_path / "model" / name / f"{stem}.safetensors"
    without(tiny / name / f"{stem}.safetensors", file, left_out)
    wanted = document(step(model=tmp_path / "model", loading=WHOLE))
    error = refused(bench, wanted)
    assert error.kind == "LoadError"
    assert error.message.startswith(f"The {name} of '{tmp_path / 'model'}' is incomplete: ")
    assert f"of its weights are missing, for example '{first}" in error.message
    assert not any(e.title.startswith(f"{name} ") for e in bench.runner.residency.entries)
    # Mended, it is loaded.
    shutil.copyfile(tiny / name / f"{stem}.safetensors", file)
    whole = bench.run(document(step(model=tiny, loading=WHOLE)))
    assert same(bench.run(wanted), whole)


@pytest.mark.parametrize("name", IN_CHECKPOINT)
def test_checkpoint_without_some_weights_is_refused(
    bench: Bench, tiny: Path, tmp_path: Path, name: str
):
    build_checkpoint(tiny, tmp_path / "whole.safetensors")
    without(tmp_path / "whole.safetensors", tmp_path / "part.safetensors", IN_CHECKPOINT[name])
    made = step()
    made["pipeline"]["from_pretrained_arguments"] = {
        "from_single_file": str(tmp_path / "part.safetensors"), "config": str(tiny), **WHOLE
    }  # fmt: skip
    error = refused(bench, document(made))
    assert error.message.startswith(
        f"The {name} of '{tmp_path / 'part.safetensors'}' is incomplete: "
    )
    assert "Download it again, or take a file that has them" in error.hint
    assert not any(e.title.startswith(f"{name} ") for e in bench.runner.residency.entries)
