"""Prompt weighting, and its effect on the prompt memo."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.dialect.plan import PipelineStep
from app.worker.tuning.weighting import weighting_prompts
from tests.standins import build_flux, build_sd3, build_sdxl
from tests.worker.bench import Bench, Document, document, same, step

BUILDERS: dict[str, Callable[[Path], None]] = {
    "FluxPipeline": build_flux,
    "StableDiffusionXLPipeline": build_sdxl,
    "StableDiffusion3Pipeline": build_sd3,
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of each family. Read-only."""
    folder = tmp_path_factory.mktemp("models")
    for name, build in BUILDERS.items():
        build(folder / name)
    return folder


def drawn(prompt: str, *, weighed: bool = True, **arguments: Any) -> Document:
    wanted = step(prompt=prompt, **arguments)
    if weighed:
        wanted["pipeline"]["configuration"]["prompt_weighting"] = True
    return document(wanted, id="weighed")


def embeddings(
    bench: Bench, models: Path, name: str, prompt: str, *, weighed: bool = True
) -> list[torch.Tensor]:
    """Returns the encoders' embeddings of the prompt."""
    wanted = step(model=models / name)
    wanted["pipeline"]["configuration"] = {
        "component_type": name,
        "prompt_weighting": weighed,
    }
    pipeline = bench.assembled(document(wanted))
    (planned,) = bench.plan(document(wanted)).steps
    assert isinstance(planned, PipelineStep)
    entered = weighting_prompts(pipeline) if planned.prompt_weighting else contextlib.nullcontext()
    with entered, torch.inference_mode():
        result = pipeline.encode_prompt(
            prompt, **{n: None for n in ("prompt_2", "prompt_3") if name in TAKES[n]}
        )
    return [each for each in result if isinstance(each, torch.Tensor)]


TAKES = {
    "prompt_2": ("FluxPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"),
    "prompt_3": ("StableDiffusion3Pipeline",),
}


def test_prompt_weight_of_one_changes_nothing(bench: Bench):
    before = bench.run(bench.write(drawn("a red circle", weighed=False), "plain"))
    assert same(before, bench.run(bench.write(drawn("a (red:1.0) circle"), "weighed")))
    assert same(before, bench.run(bench.write(drawn("a red circle"), "weighed")))


def test_prompt_weight_does_not_affect_next_step(bench: Bench):
    plain = drawn("a red circle", weighed=False)
    before = bench.run(bench.write(plain, "plain"))
    heavy = bench.run(bench.write(drawn("a (red:1.8) circle"), "weighed"))
    assert not same(before, heavy)
    assert same(before, bench.run(bench.write(plain, "plain")))
    assert same(heavy, bench.run(bench.write(drawn("a (red:1.8) circle"), "weighed")))
    assert same(heavy, Bench(bench.folder).run(drawn("a (red:1.8) circle")))


def test_prompt_weight_changes_the_memo_key(bench: Bench):
    text = "a (red:1.8) circle"
    literal = bench.run(bench.write(drawn(text, weighed=False), "plain"))
    weighed = bench.run(bench.write(drawn(text), "weighed"))
    assert not same(literal, weighed)
    assert same(literal, bench.run(bench.write(drawn(text, weighed=False), "plain")))


def test_negative_prompt_may_have_weights(bench: Bench):
    plain = bench.run(bench.write(drawn("a red circle", negative_prompt="blue square"), "one"))
    heavy = drawn("a red circle", negative_prompt="(blue:3) square")
    assert not same(plain, bench.run(bench.write(heavy, "two")))


@pytest.mark.parametrize("name", BUILDERS)
def test_prompt_weights_apply_to_marked_tokens_only(bench: Bench, models: Path, name: str):
    plain = embeddings(bench, models, name, "a red circle", weighed=False)
    same_weight = embeddings(bench, models, name, "a (red:1.0) circle")
    heavy = embeddings(bench, models, name, "a (red:2.0) circle")
    for one, other in zip(plain, same_weight, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(plain[1:], heavy[1:], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(plain[0], heavy[0])
    assert heavy[0].shape == plain[0].shape


def test_prompt_weights_multiply_t5_tokens(bench: Bench, models: Path):
    """The stand-in's tokenizer has one token for each character."""
    plain = embeddings(bench, models, "FluxPipeline", "ab c", weighed=False)[0]
    heavy = embeddings(bench, models, "FluxPipeline", "a(b:2.0) c")[0]
    ratio = (heavy / plain)[0, :8].mean(dim=-1)
    assert sorted(ratio.unique().tolist()) == pytest.approx([1.0, 2.0])
    assert int((ratio > 1.5).sum()) == 1


def test_pooled_clip_embedding_covers_all_chunks(bench: Bench, models: Path):
    text = "a red circle " * 20 + "a blue square " * 20
    long = text.replace("red", "(red:1.1)")
    short = embeddings(bench, models, "FluxPipeline", "a (red:1.1) circle")[1]
    pooled = embeddings(bench, models, "FluxPipeline", long)[1]
    cut = embeddings(bench, models, "FluxPipeline", text, weighed=False)[1]
    assert pooled.shape == short.shape
    assert not torch.equal(pooled, cut)
    broken = embeddings(bench, models, "FluxPipeline", "(a red circle) BREAK (a red circle)")[1]
    torch.testing.assert_close(
        broken, embeddings(bench, models, "FluxPipeline", "a red circle", weighed=False)[1]
    )


def test_unsupported_pipeline_takes_prompt_literally(bench: Bench):
    wanted = step(model="../wan", kind="")
    wanted["pipeline"]["configuration"] = {
        "component_type": "WanPipeline",
        "prompt_weighting": True,
    }
    wanted["pipeline"]["from_pretrained_arguments"]["model_name"] = "owner/wan"
    plan = bench.plan(document(wanted))
    assert "The prompts of a WanPipeline cannot be weighed" in "".join(plan.warnings)
    (planned,) = plan.steps
    assert isinstance(planned, PipelineStep)
    assert not planned.prompt_weighting
