"""`clip_skip` leaves out the last layers of CLIP's text encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.errors import BadRequest
from tests.standins.families import build_narrow
from tests.worker.bench import SHAPES, Bench, document, same, step
from tests.worker.tuning.test_tuning import OUTLINE

LAYERS = 3


def shortened(folder: Path, layers: int) -> Path:
    """Returns a copy of the bundled model whose text encoder has only so many layers."""
    shutil.copytree(SHAPES, folder)
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": layers}))
    (weights,) = (folder / "text_encoder").glob("*.safetensors")
    dropped = tuple(f"encoder.layers.{layer}." for layer in range(layers, LAYERS))
    tensors = load_file(weights)
    kept = {name: each for name, each in tensors.items() if not any(d in name for d in dropped)}
    assert len(kept) < len(tensors)
    save_file(kept, weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("skipped", [1, 2])
def test_clip_skip_equals_encoder_without_those_layers(bench: Bench, tmp_path: Path, skipped: int):
    # diffusers encodes the negative prompt with all layers: without guidance there is none.
    model = shortened(tmp_path / "short", LAYERS - skipped)
    plain = bench.run(document(step(guidance_scale=1)))
    skipping = bench.run(document(step(guidance_scale=1, clip_skip=skipped)))
    assert same(skipping, bench.run(document(step(model=model, guidance_scale=1))))
    assert not same(skipping, plain)
    assert same(bench.run(document(step(guidance_scale=1), id="after")), plain)


def test_clip_skip_works_with_lora(bench: Bench):
    blocks = {"loras": [{"model_name": str(OUTLINE)}]}
    outlined = bench.run(document(step(blocks=blocks)))
    skipping = bench.run(document(step(clip_skip=1, blocks=blocks)))
    assert not same(skipping, outlined)
    assert same(bench.run(document(step(blocks=blocks), id="after")), outlined)


@pytest.mark.parametrize("skipped", [-1, LAYERS, 5])
def test_clip_skip_beyond_layers_is_refused_while_planning(bench: Bench, skipped: int):
    with pytest.raises(BadRequest, match=f"{skipped} is outside 0 to 2, the layers of the text"):
        bench.plan(document(step(clip_skip=skipped)))


@pytest.mark.parametrize(("family", "layers"), [("sd15", 1), ("sdxl", 1)])
def test_clip_skip_beyond_layers_of_a_checkpoint_is_refused_while_planning(
    bench: Bench, tmp_path: Path, family: str, layers: int
):
    build_narrow(family, tmp_path / "dream.safetensors")
    asked = step(clip_skip=9, kind="XL" if family == "sdxl" else "")
    asked["pipeline"]["from_pretrained_arguments"] = {"from_single_file": "./dream.safetensors"}
    with pytest.raises(BadRequest, match=f"9 is outside 0 to {layers}, the layers of the text"):
        bench.plan(document(asked))


def test_clip_skip_beyond_layers_that_planning_does_not_know_is_refused_before_the_call(
    bench: Bench, tmp_path: Path
):
    """Of a text encoder from elsewhere, or of a model that is fetched first."""
    shortened(tmp_path / "short", 1)
    encoder = {
        "configuration": {"component_type": "transformers.CLIPTextModel"},
        "from_pretrained_arguments": {"model_name": "./short", "subfolder": "text_encoder"},
    }
    asked = step(clip_skip=2, blocks={"text_encoder": encoder})
    ended = bench.run(document(asked)).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == (
        "Step 'draw': 'clip_skip' 2 is outside 0 to 0, the layers of the text encoder to skip."
    )
    assert bench.run(document(step(clip_skip=0, blocks={"text_encoder": encoder}))).success
