"""Several IP-adapters in one step, adapters for faces, and those of Stable Diffusion 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image
from transformers import (
    CLIPVisionModelWithProjection,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

from app.protocol import Event, RunCancelled, StepProgress
from tests.standins import build_flux, build_sd3
from tests.standins.ip_adapter import (
    build_flux_ip_adapter,
    build_ip_adapter,
    build_sd3_ip_adapter,
)
from tests.worker.bench import SHAPES, Bench, Document, document, pixels, same, step

PLAIN = document(step(), id="plain")
LORA = {"model_name": f"{SHAPES}/outline", "scale": 0.7}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters for the bundled model: `one`, `two` and `face`. Read-only."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two", "face")):
        build_ip_adapter(Path(SHAPES), folder / name, "eye.safetensors", seed, face=name == "face")
    return folder


@pytest.fixture(autouse=True)
def pictures(bench: Bench) -> None:
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(bench.folder / f"{colour}.png")


def block(adapters: Path, name: str, **changes: Any) -> Document:
    return {"model_name": str(adapters / name), "weight_name": "eye.safetensors", **changes}


def looking(*blocks: Document, images: Any = ("red.png", "blue.png"), **more: Any) -> Document:
    """Returns a document with these IP-adapters, and an image for each."""
    images = list(images) if isinstance(images, tuple) else images
    return document(
        step(blocks={"ip_adapter": [*blocks], **more}, ip_adapter_image=images), id="looking"
    )


def opened(bench: Bench, file: str) -> Image.Image:
    with Image.open(bench.folder / file) as picture:
        return picture.convert("RGB")


def stock(pipeline: Any, scales: Any, pictures: list[Any], **arguments: Any) -> np.ndarray:
    """Returns what diffusers itself draws with a pipeline whose adapters are loaded."""
    pipeline.set_ip_adapter_scale(scales)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    drawn = pipeline(
        prompt="a red circle",
        num_inference_steps=2,
        ip_adapter_image=pictures,
        generator=generator,
        **arguments,
    )
    return np.asarray(drawn.images[0])


@pytest.mark.parametrize(
    "scales",
    [
        (1.0, 1.0),
        (0.3, 0.8),
        ({"down": 0.5}, {"up": 0.8, "mid": 0.3}),
    ],
)
def test_several_ip_adapters_draw_what_diffusers_draws(
    bench: Bench, adapters: Path, scales: tuple[Any, Any]
):
    both = [block(adapters, name, scale=s) for name, s in zip(("one", "two"), scales, strict=True)]
    (ours,) = pixels(bench.run(looking(*both)))
    encoder = adapters / "one" / "image_encoder"
    pipeline = StableDiffusionPipeline.from_pretrained(
        SHAPES, image_encoder=CLIPVisionModelWithProjection.from_pretrained(encoder)
    )
    folders = [str(adapters / name) for name in ("one", "two")]
    names = ["eye.safetensors"] * 2
    pipeline.load_ip_adapter(folders, subfolder="", weight_name=names, image_encoder_folder=None)
    seen = [opened(bench, file) for file in ("red.png", "blue.png")]
    assert np.array_equal(ours, stock(pipeline, [*scales], seen))


def test_order_of_adapters_and_images_counts(bench: Bench, adapters: Path):
    one, two = block(adapters, "one"), block(adapters, "two")
    forth = bench.run(looking(one, two), fresh=False)
    back = bench.run(looking(two, one), fresh=False)
    others = bench.run(looking(one, two, images=("blue.png", "red.png")), fresh=False)
    assert not same(forth, back)
    assert not same(forth, others)
    assert same(forth, bench.run(looking(one, two), fresh=False))
    several = looking(one, two, images=[["red.png", "blue.png"], ["blue.png"]])
    assert not same(forth, bench.run(several))


def test_several_ip_adapters_leave_no_trace(bench: Bench, adapters: Path):
    plain = bench.run(PLAIN)
    (entry,) = (e for e in bench.runner.residency.entries if e.title.startswith("unet"))
    names = set(entry.component.state_dict())
    both = looking(block(adapters, "one"), block(adapters, "two"))
    drawn = bench.run(both)
    assert set(entry.component.state_dict()) == names
    assert same(plain, bench.run(PLAIN))
    single = looking(block(adapters, "two"), images=("red.png",))
    alone = bench.run(single)
    assert same(drawn, bench.run(both))
    assert same(alone, Bench(bench.folder).run(single))


# --- adapters for faces, which include a LoRA -----------------------------------------------------


@pytest.mark.parametrize("loras", [[], [LORA], [LORA, {**LORA, "scale": -0.2}]])
def test_lora_of_a_face_adapter_acts_beside_the_steps_own(
    bench: Bench, adapters: Path, loras: list[Document]
):
    face = looking(block(adapters, "face", scale=0.0), images=("red.png",), loras=loras)
    # Without its influence on attention, the adapter is its LoRA alone.
    own = bench.run(document(step(blocks={"loras": loras})))
    drawn = bench.run(face)
    assert not same(own, drawn)
    assert same(own, bench.run(document(step(blocks={"loras": loras}))))
    if loras:
        without = looking(block(adapters, "face", scale=0.0), images=("red.png",))
        assert not same(drawn, bench.run(without))
    assert same(drawn, Bench(bench.folder).run(face))


def test_face_adapter_keeps_the_loras_of_its_denoiser(bench: Bench, adapters: Path):
    with_lora = document(step(blocks={"loras": [LORA]}))
    drawn = bench.run(with_lora)
    cache = bench.runner.loras.cache
    (kept,) = (name for name, _ in cache.items())
    face = looking(block(adapters, "face"), images=("red.png",), loras=[LORA])
    first = bench.run(face)
    held = {name for name, _ in cache.items()}
    assert kept in held
    assert len(held) == 2
    assert same(drawn, bench.run(with_lora))
    assert same(first, bench.run(face))
    assert {name for name, _ in cache.items()} == held


def test_face_adapter_draws_what_diffusers_draws(bench: Bench, adapters: Path):
    (ours,) = pixels(bench.run(looking(block(adapters, "face"), images=("red.png",))))
    encoder = adapters / "face" / "image_encoder"
    pipeline = StableDiffusionPipeline.from_pretrained(
        SHAPES, image_encoder=CLIPVisionModelWithProjection.from_pretrained(encoder)
    )
    pipeline.load_ip_adapter(
        str(adapters / "face"),
        subfolder="",
        weight_name="eye.safetensors",
        image_encoder_folder=None,
    )
    assert np.array_equal(ours, stock(pipeline, 1.0, [opened(bench, "red.png")]))


def test_runs_with_adapters_do_not_depend_on_earlier_ones(bench: Bench, adapters: Path):
    one, two, face = (block(adapters, name) for name in ("one", "two", "face"))
    half = {"loading": {"torch_dtype": "torch.bfloat16"}}
    documents = {
        "plain": PLAIN,
        "lora": document(step(blocks={"loras": [LORA]})),
        "half lora": document(step(blocks={"loras": [LORA]}, **half)),
        "one": looking(one, images=("red.png",)),
        "both": looking(one, two),
        "face": looking(face, images=("red.png",)),
        "face, one and lora": looking(face, one, loras=[LORA]),
        "half face": document(
            step(blocks={"ip_adapter": face, "loras": [LORA]}, ip_adapter_image="red.png", **half)
        ),
    }

    def cancel_while_denoising(event: Event) -> None:
        if isinstance(event, StepProgress):
            bench.cancel(event.run_id)

    expected = {name: Bench(bench.folder).run(each) for name, each in documents.items()}
    history = [*documents, *reversed(documents), *sorted(documents)]
    for number, name in enumerate(history):
        if number % 5 == 4:
            bench.when = cancel_while_denoising
            assert isinstance(bench.run(documents[history[-number]]).terminal, RunCancelled)
            bench.when = lambda _event: None
        assert same(expected[name], bench.run(documents[name])), name


# --- Flux and Stable Diffusion 3 ------------------------------------------------------------------


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flux, two adapters for it and their encoder. Read-only."""
    folder = tmp_path_factory.mktemp("flux")
    build_flux(folder / "model")
    for seed, name in enumerate(("one", "two")):
        build_flux_ip_adapter(
            folder / "model", folder / name, folder / "clip", "eye.safetensors", seed
        )
    return folder


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.2, 0.9), ([0.4], 0.7)])
def test_several_ip_adapters_of_flux_draw_what_diffusers_draws(
    bench: Bench, flux: Path, scales: tuple[Any, Any]
):
    both = [block(flux, name, scale=s) for name, s in zip(("one", "two"), scales, strict=True)]
    both[0]["image_encoder_pretrained_model_name_or_path"] = str(flux / "clip")
    drawn = step(
        model=flux / "model",
        blocks={"ip_adapter": both},
        ip_adapter_image=["red.png", "blue.png"],
        width=32,
        height=32,
    )
    drawn["pipeline"]["configuration"] = {"component_type": "FluxPipeline"}
    plain = {**drawn, "pipeline": {**drawn["pipeline"]}}
    del plain["pipeline"]["ip_adapter"]
    plain["pipeline"]["arguments"] = {
        name: value
        for name, value in plain["pipeline"]["arguments"].items()
        if name != "ip_adapter_image"
    }
    before = bench.run(document(plain))
    (ours,) = pixels(bench.run(document(drawn)))
    assert same(before, bench.run(document(plain)))
    pipeline = FluxPipeline.from_pretrained(
        flux / "model", image_encoder=CLIPVisionModelWithProjection.from_pretrained(flux / "clip")
    )
    folders = [str(flux / name) for name in ("one", "two")]
    pipeline.load_ip_adapter(folders, weight_name=["eye.safetensors"] * 2)
    seen = [opened(bench, file) for file in ("red.png", "blue.png")]
    theirs = stock(pipeline, [*scales], seen, width=32, height=32)
    assert np.array_equal(ours, theirs)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 3, an adapter for it and its encoder. Read-only."""
    folder = tmp_path_factory.mktemp("sd3")
    build_sd3(folder / "model")
    encoder = folder / "siglip"
    build_sd3_ip_adapter(folder / "model", folder / "one", encoder, "eye.safetensors")
    return folder


def on_sd3(sd3: Path, image: Any, blocks: Document | None = None, **changes: Any) -> Document:
    """Returns a step with the adapter, whose encoder is named by it."""
    adapter = block(sd3, "one", **changes)
    if blocks is None:
        adapter["image_encoder_pretrained_model_name_or_path"] = str(sd3 / "siglip")
    seen = {"ip_adapter_image": image} if image else {}
    return document(
        step(
            model=sd3 / "model",
            kind="3",
            blocks={**({"ip_adapter": adapter} if image else {}), **(blocks or {})},
            width=32,
            height=32,
            **seen,
        )
    )


@pytest.mark.parametrize("scale", [1.0, 0.4, 0.0])
def test_ip_adapter_of_sd3_draws_what_diffusers_draws(bench: Bench, sd3: Path, scale: float):
    plain = on_sd3(sd3, None)
    before = bench.run(plain)
    ran = bench.run(on_sd3(sd3, "red.png", scale=scale))
    assert same(before, ran) == (scale == 0.0)
    assert same(before, bench.run(plain))
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        sd3 / "model",
        image_encoder=SiglipVisionModel.from_pretrained(sd3 / "siglip"),
        feature_extractor=SiglipImageProcessorPil.from_pretrained(sd3 / "siglip"),
    )
    pipeline.load_ip_adapter(str(sd3 / "one"), weight_name="eye.safetensors")
    seen: Any = opened(bench, "red.png")
    theirs = stock(pipeline, scale, seen, width=32, height=32)
    assert np.array_equal(pixels(ran)[0], theirs)


def test_encoder_of_an_sd3_adapter_may_be_blocks(bench: Bench, sd3: Path):
    named = bench.run(on_sd3(sd3, "red.png"))
    loading = {"from_pretrained_arguments": {"model_name": str(sd3 / "siglip")}}
    blocks = {
        "image_encoder": {
            "configuration": {"component_type": "transformers.SiglipVisionModel"},
            **loading,
        },
        "feature_extractor": {
            "configuration": {"component_type": "transformers.SiglipImageProcessor"},
            **loading,
        },
    }
    given = bench.run(on_sd3(sd3, "red.png", blocks))
    assert same(named, given)
    assert given.success.loaded == ()
    assert not same(named, bench.run(on_sd3(sd3, "blue.png")))
