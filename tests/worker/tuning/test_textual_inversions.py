"""Textual inversions change what the text encoders read, for their step only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.doubles.accelerator import Accelerator
from tests.engines import notices
from tests.standins.inversion import OF_TWO, build_inversion
from tests.worker.bench import Bench, Document, document, pixels, same, step

# diffusers' scheduler passes tensors to NumPy in a deprecated way.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)
SIDE = {"width": 16, "height": 16, "num_inference_steps": 2}
XL = "XL"


def drawing(
    model: Path, prompt: str, *inversions: dict[str, Any], kind: str = "", **blocks: Any
) -> Document:
    loading = {"safety_checker": None} if not kind else {}
    more = {"textual_inversions": list(inversions)} if inversions else {}
    drawn = step(
        model=model, kind=kind, loading=loading, prompt=prompt, blocks={**more, **blocks}, **SIDE
    )
    return document(drawn, id="inversion")


def stock(model: Path, kind: str) -> Any:
    """Returns diffusers' own pipeline."""
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(
        model, **({"add_watermarker": False} if kind else {"safety_checker": None})
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by(pipeline: Any, prompt: str) -> np.ndarray:
    image = pipeline(prompt=prompt, generator=torch.Generator("cpu").manual_seed(7), **SIDE)
    return np.asarray(image.images[0])


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("name", ["<ink>", "emb_params"])
def test_inversion_draws_as_in_diffusers(bench: Bench, sd: Path, name: str, vectors: int):
    file = bench.folder / "styles" / "wash.safetensors"
    tensors = build_inversion(file, name, vectors=vectors)
    word = "wash" if name == "emb_params" else name
    prompt = f"a red circle, {word} big"
    (made,) = pixels(bench.run(drawing(sd, prompt, {"model_name": str(file)})))
    pipeline = stock(sd, "")
    plain = drawn_by(pipeline, prompt)
    pipeline.load_textual_inversion({name: tensors[name]}, token=word)
    assert np.array_equal(made, drawn_by(pipeline, prompt))
    assert not np.array_equal(made, plain)


@pytest.mark.parametrize("vectors", [1, 2])
def test_inversion_of_two_encoders_draws_as_in_diffusers(bench: Bench, sdxl: Path, vectors: int):
    file = bench.folder / "wash.safetensors"
    tensors = build_inversion(file, *OF_TWO, vectors=vectors)
    (made,) = pixels(bench.run(drawing(sdxl, "a wash star", {"model_name": str(file)}, kind=XL)))
    pipeline = stock(sdxl, XL)
    plain = drawn_by(pipeline, "a wash star")
    for tensor, number in zip(OF_TWO, ("", "_2"), strict=True):
        pipeline.load_textual_inversion(
            tensors[tensor] if vectors == 1 else {"wash": tensors[tensor]},
            token="wash",
            tokenizer=getattr(pipeline, f"tokenizer{number}"),
            text_encoder=getattr(pipeline, f"text_encoder{number}"),
        )
    assert np.array_equal(made, drawn_by(pipeline, "a wash star"))
    assert not np.array_equal(made, plain)


def test_several_inversions_draw_as_in_diffusers(bench: Bench, sd: Path):
    one = build_inversion(bench.folder / "one.safetensors", "<one>", vectors=2, seed=1)
    other = build_inversion(bench.folder / "other.safetensors", "emb_params", seed=2)
    prompt = "a <one> circle of my-ink"
    given = [
        {"model_name": "./one.safetensors"},
        {"model_name": "./", "weight_name": "other.safetensors", "token": "my-ink"},
    ]
    (made,) = pixels(bench.run(drawing(sd, prompt, *given)))
    pipeline = stock(sd, "")
    pipeline.load_textual_inversion(one)
    pipeline.load_textual_inversion(other, token="my-ink")
    assert np.array_equal(made, drawn_by(pipeline, prompt))


def test_word_with_capitals_is_read_with_all_its_vectors(bench: Bench, sd: Path):
    # diffusers reads the first one only: its tokenizer has the word in small letters.
    for name in ("EasyInk", "easyink"):
        build_inversion(bench.folder / name / f"{name}.safetensors", "emb_params", vectors=2)
    made = [
        bench.run(drawing(sd, f"a {written} star", {"model_name": f"./{name}"}))
        for written, name in (
            ("easyink", "easyink"),
            ("EasyInk", "EasyInk"),
            ("easyInk", "EasyInk"),
        )
    ]
    assert same(made[0], made[1])
    assert same(made[0], made[2])
    build_inversion(bench.folder / "easyink" / "easyink.safetensors", "emb_params", vectors=1)
    other = bench.run(drawing(sd, "a easyink star", {"model_name": "./easyink"}))
    assert not same(made[0], other)


@pytest.mark.parametrize("kind", ["", XL])
def test_held_components_are_as_before(bench: Bench, sd: Path, sdxl: Path, kind: str):
    model = sdxl if kind else sd
    names = OF_TWO if kind else ("<ink>",)
    build_inversion(bench.folder / "ink.safetensors", *names, vectors=2)
    plain = drawing(model, "a <ink> star", kind=kind)
    given = {"model_name": "./ink.safetensors", "token": "<ink>"}
    inverted = drawing(model, "a <ink> star", given, kind=kind)
    first = bench.run(plain)
    held = {e.title: e.component for e in bench.runner.residency.entries}
    encoders = {title: each for title, each in held.items() if title.startswith("text_encoder")}
    tokenizers = {title: each for title, each in held.items() if title.startswith("tokenizer")}
    modules = {title: [*each.named_modules()] for title, each in encoders.items()}
    weights = {
        title: {name: (id(w), w.clone()) for name, w in each.named_parameters()}
        for title, each in encoders.items()
    }
    vocabularies = {title: each.get_vocab() for title, each in tokenizers.items()}
    made = bench.run(inverted)
    assert not same(first, made)
    for title, encoder in encoders.items():
        assert [*encoder.named_modules()] == modules[title]
        for name, weight in encoder.named_parameters():
            assert (id(weight), True) == (
                weights[title][name][0],
                torch.equal(weight, weights[title][name][1]),
            )
    assert {title: each.get_vocab() for title, each in tokenizers.items()} == vocabularies
    assert same(first, bench.run(plain))
    assert same(made, bench.run(inverted))


def test_other_vectors_in_the_same_file_draw_anew(bench: Bench, sd: Path):
    file = bench.folder / "ink.safetensors"
    wanted = drawing(sd, "a <ink> star", {"model_name": "./ink.safetensors"})
    build_inversion(file, "<ink>", seed=1)
    first = bench.run(wanted, fresh=False)
    build_inversion(file, "<ink>", seed=2)
    second = bench.run(wanted, fresh=False)
    assert second.success.made_at is None
    assert not same(first, second)


def test_other_word_is_not_read_from_the_memo(bench: Bench, sd: Path):
    build_inversion(bench.folder / "ink.safetensors", "<ink>")
    file = {"model_name": "./ink.safetensors"}
    named = bench.run(drawing(sd, "a <ink> star", file))
    renamed = bench.run(drawing(sd, "a <ink> star", {**file, "token": "<wash>"}))
    assert not same(named, renamed)


def test_inversion_works_with_offload(tmp_path: Path, sd: Path):
    bench = Bench(tmp_path, Accelerator())
    build_inversion(bench.folder / "ink.safetensors", "<ink>", vectors=2)
    file = {"model_name": "./ink.safetensors"}
    there = bench.run(drawing(sd, "a <ink> star", file))
    wanted = drawing(sd, "a <ink> star", file)
    wanted["steps"][0]["pipeline"]["configuration"]["offload"] = "model"
    bench.runner.prompts.clear()
    for _ in range(2):
        assert same(there, bench.run(wanted))


def test_inversion_with_weights_in_the_prompt_weighs_all_its_words(bench: Bench, sd: Path):
    blocks = {
        "configuration": {"component_type": "StableDiffusionPipeline", "prompt_weighting": True}
    }
    (vectors,) = build_inversion(bench.folder / "ink.safetensors", "<ink>", vectors=2).values()
    for number, vector in enumerate(vectors):
        save_file({f"<{number}>": vector[None].clone()}, bench.folder / f"{number}.safetensors")
    one = {"model_name": "./ink.safetensors"}
    two = [{"model_name": f"./{number}.safetensors"} for number in range(2)]
    made = bench.run(drawing(sd, "a (<ink>:1.5) star", one, **blocks))
    assert same(made, bench.run(drawing(sd, "a (<0> <1>:1.5) star", *two, **blocks)))
    assert not same(made, bench.run(drawing(sd, "a (<0>:1.5) <1> star", *two, **blocks)))


def test_words_of_several_vectors_count_for_a_prompt_that_is_cut(bench: Bench, sd: Path):
    build_inversion(bench.folder / "ink.safetensors", "<ink>", vectors=25)
    finished = bench.run(drawing(sd, "a <ink> red star", {"model_name": "./ink.safetensors"}))
    assert finished.success
    long = bench.run(
        drawing(sd, "a <ink> big red star above a blue circle", {"model_name": "./ink.safetensors"})
    )
    (sentence,) = notices(long)
    assert sentence.startswith("The prompt is too long for the model, which does not read: '")
    assert sentence.endswith("circle'.")


def test_word_that_no_prompt_has_is_told(bench: Bench, sd: Path):
    build_inversion(bench.folder / "ink.safetensors", "<ink>")
    finished = bench.run(drawing(sd, "a star", {"model_name": "./ink.safetensors"}))
    (sentence,) = notices(finished)
    assert sentence == "No prompt has the word '<ink>': its embedding has no effect."


def test_pickle_is_read_where_it_is_allowed(bench: Bench, sd: Path):
    tensors = build_inversion(bench.folder / "safe" / "ink.safetensors", "emb_params", vectors=2)
    rows = {"string_to_param": {"*": tensors["emb_params"].requires_grad_()}, "name": "x"}
    torch.save(rows, bench.folder / "ink.pt")
    safe = bench.run(drawing(sd, "a ink star", {"model_name": "./safe/ink.safetensors"}))
    path = bench.write(drawing(sd, "a ink star", {"model_name": "./ink.pt"}))
    allowed = PathSettings(media=(bench.folder,), allow_pickles=True)
    assert same(safe, bench.run(make_plan(path, {}, paths=allowed, seed=7)))


def test_inversion_that_does_not_fit_is_refused_by_the_worker(bench: Bench, sd: Path):
    # A file that appears after planning, or that only the worker may read.
    file = bench.folder / "ink.safetensors"
    build_inversion(file, "<ink>")
    plan = bench.plan(drawing(sd, "a <ink> star", {"model_name": "./ink.safetensors"}))
    build_inversion(file, "<ink>", width=16)
    failed = bench.run(plan).terminal
    assert failed.type == "run_failed"
    assert failed.error.message == (
        "Step 'draw': 'ink.safetensors' has embeddings of 16 numbers; the text_encoder of this"
        " model needs 32."
    )
