"""Words of a weighted prompt that change between denoising steps."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from app.worker.tuning.prompt_changes import CHANGEABLE
from tests.engines import Finished, notices
from tests.standins import build_flux, build_sana
from tests.worker.bench import Bench, Document, same
from tests.worker.encoding import encoded
from tests.worker.tuning.prompts import (
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
EULER = {"scheduler": {"configuration": {"scheduler_type": "EulerDiscreteScheduler"}}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build(folder)
    return folder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bench_with_pictures(tmp_path)


def changing(models: Path, prompt: str, kind: str = "", **arguments: Any) -> Document:
    """Returns a document whose scheduler calls the denoiser once in each of four steps."""
    made = drawing(models, prompt, kind, **arguments)
    made["steps"][0]["pipeline"] |= EULER
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_gets_each_step_its_own_prompts(bench: Bench, models: Path, kind: str):
    pipeline = stock(models, kind)
    words = "[red|blue] [star:circle:0.5]"
    with listening() as read:
        drawn = bench.run(changing(models, words, kind, negative_prompt="[green::1]"))
    assert notices(drawn) == []
    expected = [("red star", "green"), ("blue star", ""), ("red circle", ""), ("blue circle", "")]
    calls = 2 if "ControlNet" in kind else 1
    assert len(read) == 4 * calls
    for number, texts in enumerate(expected):
        positive, negative = (by_hand(pipeline, text) for text in texts)
        for each in read[number * calls :][:calls]:
            assert torch.equal(
                each.embeddings, torch.cat([negative.embeddings, positive.embeddings])
            )
            if positive.pooled is not None and negative.pooled is not None:
                assert each.pooled is not None
                assert torch.equal(each.pooled, torch.cat([negative.pooled, positive.pooled]))


def test_each_kind_that_can_change_takes_embeddings_from_its_callback():
    for name in CHANGEABLE:
        kind = getattr(diffusers, name)
        assert "callback_on_step_end" in inspect.signature(kind.__call__).parameters
        assert "prompt_embeds" in kind._callback_tensor_inputs
        assert ("add_text_embeds" in kind._callback_tensor_inputs) == ("XL" in name)


@pytest.mark.parametrize("kind", ["", "XL"])
def test_changes_work_without_guidance_and_for_several_pictures(
    bench: Bench, models: Path, kind: str
):
    pipeline = stock(models, kind)
    with listening() as read:
        bench.run(changing(models, "[red|blue]", kind, guidance_scale=1, num_images_per_prompt=2))
    for number, each in enumerate(read):
        expected = by_hand(pipeline, ("red", "blue")[number % 2])
        assert torch.equal(each.embeddings, expected.embeddings.repeat(2, 1, 1))


def test_prompt_may_change_its_number_of_chunks(bench: Bench, models: Path):
    with listening() as read:
        bench.run(changing(models, "red[ BREAK blue:2] star", negative_prompt="green"))
    pipeline = stock(models, "")
    chunks = [(["red star"], ["green"])] * 2 + [(["red", "blue star"], ["green", ""])] * 2
    for each, (positive, negative) in zip(read, chunks, strict=True):
        expected = [by_hand(pipeline, *texts).embeddings for texts in (negative, positive)]
        assert torch.equal(each.embeddings, torch.cat(expected))


def test_second_order_scheduler_changes_once_in_a_step(bench: Bench, models: Path):
    wanted = drawing(models, "[red|blue]", guidance_scale=1)
    kind = {"configuration": {"scheduler_type": "HeunDiscreteScheduler"}}
    wanted["steps"][0]["pipeline"]["scheduler"] = kind
    with listening() as read:
        bench.run(wanted)
    red, blue = (by_hand(stock(models, ""), word).embeddings for word in ("red", "blue"))
    expected = [red, red, blue, blue, red, red, blue]
    for each, embeddings in zip(read, expected, strict=True):
        assert torch.equal(each.embeddings, embeddings)


@pytest.mark.parametrize(
    ("kind", "prompt", "arguments"),
    [
        ("Img2Img", "[red:blue:0.5]", {"strength": 0.5}),
        ("XLImg2Img", "[red:blue:0.5]", {"strength": 0.5}),
        ("XLImg2Img", "[red:blue:0.5]", {"denoising_start": 0.5}),
        ("XL", "[red:blue:0.5]", {"denoising_end": 0.5}),
    ],
)
def test_share_is_of_the_steps_that_are_made(
    bench: Bench, models: Path, kind: str, prompt: str, arguments: dict[str, Any]
):
    with listening() as read:
        bench.run(changing(models, prompt, kind, guidance_scale=1, **arguments))
    expected = [by_hand(stock(models, kind), word).embeddings for word in ("red", "blue")]
    for each, embeddings in zip(read, expected, strict=True):
        assert torch.equal(each.embeddings, embeddings)


def test_prompt_that_stays_the_same_draws_the_same(bench: Bench, models: Path):
    def drawn(prompt: str) -> Finished:
        return bench.run(changing(models, prompt))

    red, blue = drawn("a red star"), drawn("a blue star")
    assert same(red, drawn("a [red|red] star"))
    assert same(red, drawn("a [red:blue:1.0] star"))
    assert same(blue, drawn("a [red:blue:0] star"))
    mixed = drawn("a [red|blue] star")
    assert not same(mixed, red)
    assert not same(mixed, blue)


def test_changes_do_not_affect_next_run_and_are_memoised(bench: Bench, models: Path):
    words = "[red|blue] [star:circle:2]"
    plain = bench.run(changing(models, "red star"))
    first = encoded(bench, changing(models, words))
    again = encoded(bench, changing(models, words, width=128))
    assert again.calls == 0 < first.calls
    assert same(first.finished, bench.run(changing(models, words)))
    assert same(first.finished, Bench(bench.folder).run(changing(models, words)))
    assert same(plain, bench.run(changing(models, "red star")))
    literal = bench.run(changing(models, words, weighed=False))
    assert notices(literal) == [
        "'[red|blue]' in the prompt is read as words: changes between steps need 'prompt_weighting'"
        " in the pipeline's configuration."
    ]
    assert not same(literal, first.finished)


def test_pipeline_that_cannot_change_its_prompt_says_so(bench: Bench):
    build_flux(bench.folder / "flux")
    wanted = drawing(bench.folder, "a [red|blue] star", max_sequence_length=64)
    pipeline = wanted["steps"][0]["pipeline"]
    pipeline["configuration"]["component_type"] = "FluxPipeline"
    pipeline["from_pretrained_arguments"] = {"model_name": "flux"}
    assert notices(bench.run(wanted)) == [
        "'[red|blue]' in the prompt is read as words: the prompts of a FluxPipeline cannot change"
        " between steps."
    ]


def test_pipeline_that_reads_no_weights_says_so(bench: Bench):
    build_sana(bench.folder / "sana")
    wanted = drawing(bench.folder, "a (red:1.3) star")
    pipeline = wanted["steps"][0]["pipeline"]
    pipeline["configuration"]["component_type"] = "AutoPipelineForText2Image"
    pipeline["from_pretrained_arguments"] = {"model_name": "sana"}
    assert notices(bench.run(wanted)) == [
        "The prompt is taken as it stands: a SanaPipeline reads no weights."
    ]
