"""Every file in documents: it draws what stock diffusers draws with it."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
from safetensors.torch import load_file

from tests.models_folder.drawing import (
    KINDS,
    PROMPT,
    config_for,
    control_image,
    drawing,
    drawn,
    drawn_by,
    lora,
    stock,
)
from tests.standins.webui import link_as_comfyui
from tests.worker.bench import Bench, Document


@pytest.mark.parametrize("checkpoint", KINDS)
def test_checkpoint_draws_as_stock_diffusers(
    bench: Bench, place: dict[str, Path], plain: dict[str, np.ndarray], checkpoint: str
):
    assert np.array_equal(plain[checkpoint], drawn_by(stock(bench, place, checkpoint)))


@pytest.mark.parametrize(
    ("name", "checkpoint"), [("ink", "dream"), ("chalk", "dream"), ("ink_xl", "realistic_xl")]
)
def test_lora_draws_as_stock_diffusers(
    bench: Bench,
    place: dict[str, Path],
    plain: dict[str, np.ndarray],
    name: str,
    checkpoint: str,
):
    changed = drawn(bench, drawing(checkpoint, **lora(name)))
    pipeline = stock(bench, place, checkpoint)
    pipeline.load_lora_weights(str(place[name]), adapter_name="a")
    pipeline.set_adapters(["a"], [0.8])
    assert np.array_equal(changed, drawn_by(pipeline))
    assert not np.array_equal(changed, plain[checkpoint])
    assert np.array_equal(drawn(bench, drawing(checkpoint)), plain[checkpoint])


@pytest.mark.parametrize("name", ["pastel_loha", "paper_lokr", "glow_dora"])
def test_file_that_stock_diffusers_cannot_load_changes_the_picture(
    bench: Bench, plain: dict[str, np.ndarray], name: str
):
    assert not np.array_equal(drawn(bench, drawing("dream", **lora(name))), plain["dream"])
    assert np.array_equal(drawn(bench, drawing("dream")), plain["dream"])


def test_embedding_draws_as_stock_diffusers(
    bench: Bench, place: dict[str, Path], plain: dict[str, np.ndarray]
):
    prompt = f"{PROMPT}, badhands"
    wanted = drawing("dream", prompt, textual_inversions=[{"model_name": "badhands"}])
    changed = drawn(bench, wanted)
    pipeline = stock(bench, place, "dream")
    assert not np.array_equal(changed, drawn_by(pipeline, prompt))
    pipeline.load_textual_inversion(str(place["badhands"]), token="badhands")
    assert np.array_equal(changed, drawn_by(pipeline, prompt))
    assert np.array_equal(drawn(bench, drawing("dream")), plain["dream"])


def test_embedding_for_two_encoders_draws_as_stock_diffusers(bench: Bench, place: dict[str, Path]):
    prompt = f"{PROMPT}, badhands_xl"
    wanted = drawing("realistic_xl", prompt, textual_inversions=[{"model_name": "badhands_xl"}])
    changed = drawn(bench, wanted)
    pipeline = stock(bench, place, "realistic_xl")
    assert not np.array_equal(changed, drawn_by(pipeline, prompt))
    vectors = load_file(place["badhands_xl"])
    for end, name in (("", "clip_l"), ("_2", "clip_g")):
        pipeline.load_textual_inversion(
            {name: vectors[name]},
            token="badhands_xl",
            text_encoder=getattr(pipeline, f"text_encoder{end}"),
            tokenizer=getattr(pipeline, f"tokenizer{end}"),
        )
    assert np.array_equal(changed, drawn_by(pipeline, prompt))


def test_vae_draws_as_stock_diffusers(
    bench: Bench, place: dict[str, Path], plain: dict[str, np.ndarray]
):
    changed = drawn(bench, drawing("dream", vae="bright"))
    vae = diffusers.AutoencoderKL.from_single_file(
        str(place["bright"]), config=str(config_for(bench, "sd15") / "vae")
    )
    assert np.array_equal(changed, drawn_by(stock(bench, place, "dream", vae=vae)))
    assert not np.array_equal(changed, plain["dream"])


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("control_sd15_canny", "dream"),
        ("canny_bare", "dream"),
        ("canny_xl", "realistic_xl"),
    ],
)
def test_controlnet_draws_as_stock_diffusers(
    bench: Bench,
    place: dict[str, Path],
    plain: dict[str, np.ndarray],
    name: str,
    checkpoint: str,
):
    changed = drawn(bench, drawing(checkpoint, controlnet=name))
    family = "sdxl" if KINDS[checkpoint] else "sd15"
    controlnet = diffusers.ControlNetModel.from_single_file(
        str(place[name]), config=str(config_for(bench, f"controlnet-{family}"))
    )
    pipeline = stock(bench, place, checkpoint, controlnet=controlnet)
    assert np.array_equal(changed, drawn_by(pipeline, image=control_image()))
    assert not np.array_equal(changed, plain[checkpoint])


EVERYTHING: dict[str, Document] = {
    "dream": {
        "loras": [{"model_name": name, "scale": 0.3} for name in (
            "ink", "chalk", "glow_dora", "pastel_loha", "paper_lokr",
        )],
        "textual_inversions": [{"model_name": "badhands"}],
        "vae": "bright",
        "controlnet": "control_sd15_canny",
    },
    "realistic_xl": {
        **lora("ink_xl"),
        "textual_inversions": [{"model_name": "badhands_xl"}],
        "controlnet": "canny_xl",
    },
}  # fmt: skip


@pytest.mark.parametrize("checkpoint", KINDS)
def test_same_files_in_comfyuis_folders_draw_the_same(
    bench: Bench, webui: Path, tmp_path: Path, checkpoint: str
):
    link_as_comfyui(webui, tmp_path)
    [word] = (each["model_name"] for each in EVERYTHING[checkpoint]["textual_inversions"])
    wanted = drawing(checkpoint, f"{PROMPT}, {word}", **EVERYTHING[checkpoint])
    assert np.array_equal(drawn(bench, wanted), drawn(Bench(tmp_path), wanted))
