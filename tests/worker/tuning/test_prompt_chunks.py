"""Prompts longer than CLIP reads at once are read in chunks, if prompts are weighted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

from app.worker.tuning.weighting import weighting_prompts
from tests.doubles.accelerator import Accelerator
from tests.engines import notices
from tests.standins import build_flux
from tests.standins.inversion import build_inversion
from tests.standins.stable_diffusion import build_sdxl_refiner
from tests.worker.bench import Bench, same
from tests.worker.encoding import encoded
from tests.worker.tuning.prompts import (
    CHUNK,
    KINDS,
    bench_with_pictures,
    build,
    by_hand,
    drawing,
    listening,
    stock,
)

# diffusers' scheduler passes tensors to NumPy in a deprecated way.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)
COLOURS = ("red", "blue", "green")
LONG = " ".join(f"{colour} star" for colour in COLOURS for _ in range(CHUNK // 2))
"""Three full chunks of different words."""
FULL = [" ".join([f"{colour} star"] * (CHUNK // 2)) for colour in COLOURS]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build(folder)
    return folder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bench_with_pictures(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_long_prompt_is_read_in_chunks_and_negative_prompt_is_filled(
    bench: Bench, models: Path, kind: str
):
    pipeline = stock(models, kind)
    with listening() as read:
        drawn = bench.run(drawing(models, LONG, kind, negative_prompt="blue circle"))
    assert notices(drawn) == []
    positive, negative = by_hand(pipeline, *FULL), by_hand(pipeline, "blue circle", "", "")
    assert {each.model for each in read} == {
        "UNet2DConditionModel", *(["ControlNetModel"] if "ControlNet" in kind else []),
    }  # fmt: skip
    for each in read:
        assert torch.equal(each.embeddings, torch.cat([negative.embeddings, positive.embeddings]))
        if positive.pooled is not None and negative.pooled is not None:
            assert each.pooled is not None
            assert torch.equal(each.pooled, torch.cat([negative.pooled, positive.pooled]))


@pytest.mark.parametrize("kind", ["", "XL"])
@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("", [""]),
        ("red star", ["red star"]),
        (FULL[0], [FULL[0]]),
        (f"{FULL[0]} circle", [FULL[0], "circle"]),
        ("red BREAK blue star", ["red", "blue star"]),
        ("BREAK red", ["", "red"]),
        ("red BREAK", ["red"]),
        ("red BREAK BREAK blue", ["red", "", "blue"]),
        (f"red BREAK {FULL[1]} circle BREAK blue", ["red", FULL[1], "circle", "blue"]),
    ],
)
def test_break_begins_a_chunk(models: Path, prompt: str, chunks: list[str], kind: str):
    pipeline = stock(models, kind)
    expected = by_hand(pipeline, *chunks)
    with weighting_prompts(pipeline), torch.inference_mode():
        found = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.equal(found[0], expected.embeddings)
    if expected.pooled is not None:
        assert torch.equal(found[2], expected.pooled)


def test_weights_change_their_own_chunk_and_keep_its_mean(models: Path):
    pipeline = stock(models, "")
    plain = by_hand(pipeline, "red star", "blue star").embeddings
    with weighting_prompts(pipeline), torch.inference_mode():
        found, _ = pipeline.encode_prompt("red star BREAK (blue:1.5) star", "cpu", 1, False)
    size = CHUNK + 2
    assert torch.equal(found[:, :size], plain[:, :size])
    weighted = plain[:, size:].clone()
    weighted[:, 1] *= 1.5
    weighted *= plain[:, size:].mean() / weighted.mean()
    torch.testing.assert_close(found[:, size:], weighted)


def test_negative_prompt_may_be_the_longer_one(bench: Bench, models: Path):
    pipeline = stock(models, "XL")
    with listening() as read:
        bench.run(drawing(models, "circle", "XL", negative_prompt=LONG))
    expected = [by_hand(pipeline, *FULL), by_hand(pipeline, "circle", "", "")]
    assert torch.equal(read[0].embeddings, torch.cat([each.embeddings for each in expected]))


def test_prompts_of_both_encoders_and_of_several_pictures_are_filled(bench: Bench, models: Path):
    pipeline = stock(models, "XL")
    prompts = ["circle", f"{FULL[0]} circle"]
    with listening() as read:
        bench.run(
            drawing(
                models, prompts, "XL", prompt_2=[LONG, "square"], guidance_scale=1,
                num_images_per_prompt=2,
            )
        )  # fmt: skip
    first = [by_hand(pipeline, *chunks) for chunks in (["circle", "", ""], [FULL[0], "circle", ""])]
    second = [by_hand(pipeline, *chunks) for chunks in (FULL, ["square", "", ""])]
    width = pipeline.text_encoder.config.hidden_size
    rows = [
        torch.cat([one.embeddings[..., :width], other.embeddings[..., width:]], dim=-1)
        for one, other in zip(first, second, strict=True)
    ]
    expected = torch.cat(rows).repeat_interleave(2, dim=0)
    torch.testing.assert_close(read[0].embeddings, expected)


def test_negative_prompt_that_is_not_read_makes_no_chunks(bench: Bench, models: Path):
    with listening() as read:
        bench.run(drawing(models, "circle", negative_prompt=LONG, guidance_scale=1))
    assert read[0].embeddings.shape[1] == CHUNK + 2


def test_words_of_several_vectors_fill_chunks(bench: Bench, models: Path):
    build_inversion(bench.folder / "ink.safetensors", "<ink>", vectors=CHUNK)
    wanted = drawing(models, "<ink> (red:1.0) star")
    wanted["steps"][0]["pipeline"]["textual_inversions"] = [{"model_name": "./ink.safetensors"}]
    with listening() as read:
        assert notices(bench.run(wanted)) == []
    assert read[0].embeddings.shape[1] == 2 * (CHUNK + 2)
    rest = by_hand(stock(models, ""), "red star").embeddings
    assert torch.equal(read[0].embeddings[1:, CHUNK + 2 :], rest)


@pytest.mark.parametrize("kind", ["", "XL"])
def test_chunks_do_not_affect_next_step_and_are_memoised(bench: Bench, models: Path, kind: str):
    literal = bench.run(drawing(models, LONG, kind, weighed=False))
    assert "too long for the model" in notices(literal)[0]
    first = encoded(bench, drawing(models, LONG, kind))
    again = encoded(bench, drawing(models, LONG, kind))
    assert first.calls > 0
    assert again.calls == 0
    assert same(first.finished, again.finished)
    assert not same(first.finished, literal)
    assert same(literal, bench.run(drawing(models, LONG, kind, weighed=False)))
    assert same(first.finished, Bench(bench.folder).run(drawing(models, LONG, kind)))
    assert notices(again.finished) == []


def test_refiner_reads_the_prompt_in_chunks(bench: Bench):
    build_sdxl_refiner(bench.folder / "sdxl")
    made = drawing(bench.folder, f"(square:2.0) BREAK {LONG}", "XLImg2Img", guidance_scale=1)
    with listening() as read:
        assert notices(bench.run(made)) == []
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(bench.folder / "sdxl")
    pipeline.tokenizer, pipeline.text_encoder = pipeline.tokenizer_2, pipeline.text_encoder_2
    expected = by_hand(pipeline, "square", *FULL)
    width = pipeline.text_encoder_2.config.hidden_size
    size = CHUNK + 2
    assert torch.equal(read[0].embeddings[:, size:], expected.embeddings[:, size:, width:])
    assert not torch.equal(read[0].embeddings[:, :size], expected.embeddings[:, :size, width:])
    assert read[0].pooled is not None
    assert expected.pooled is not None
    assert torch.equal(read[0].pooled, expected.pooled)


@pytest.mark.parametrize("kind", ["", "XL"])
def test_chunks_and_changes_work_with_offload(tmp_path: Path, models: Path, kind: str):
    bench_with_pictures(tmp_path)
    bench = Bench(tmp_path, Accelerator())
    prompt = f"[red|blue] {LONG}"
    there = bench.run(drawing(models, prompt, kind))
    wanted = drawing(models, prompt, kind)
    wanted["steps"][0]["pipeline"]["configuration"]["offload"] = "model"
    bench.runner.prompts.clear()
    for _ in range(2):
        assert same(there, bench.run(wanted))


def test_t5_prompt_that_is_cut_has_a_notice(bench: Bench):
    build_flux(bench.folder / "flux")
    wanted = drawing(bench.folder, f"{'word ' * 20}(end:1.3)", max_sequence_length=40)
    pipeline = wanted["steps"][0]["pipeline"]
    pipeline["configuration"]["component_type"] = "FluxPipeline"
    pipeline["from_pretrained_arguments"] = {"model_name": "flux"}
    (sentence,) = notices(bench.run(wanted))
    assert sentence.startswith("The prompt is too long for the model, which does not read: '")
    assert sentence.endswith("word end'.")
    pipeline["arguments"]["max_sequence_length"] = 512
    assert notices(bench.run(wanted)) == []
