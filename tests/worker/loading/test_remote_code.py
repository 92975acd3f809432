"""A repository's own code runs only if it was allowed at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from app.dialect.plan import Plan
from app.errors import InvalidWorkflow
from app.planning.planner import make_plan
from app.protocol import RunFailed
from app.settings import PathSettings, Settings
from tests.standins import build_flux, build_sd
from tests.worker.bench import Bench, Document, document, pixels, same, step

CODE = "somebody/darker"
DARKER = """
from diffusers import StableDiffusionPipeline

from .brightness import DIVISOR


class DarkerPipeline(StableDiffusionPipeline):
    def __call__(self, *arguments, **named):
        output = super().__call__(*arguments, **named)
        output.images = [each.point(lambda value: value // DIVISOR) for each in output.images]
        return output
"""
DRAWING = """
import torch
from diffusers import StableDiffusionPipeline


class DrawingPipeline(StableDiffusionPipeline):
    def __call__(self, *arguments, **named):
        named["latents"] = torch.randn(1, 4, 8, 8)
        return super().__call__(*arguments, **named)
"""
"""Draws beside the generator that it is given, as a few of diffusers' own pipelines do."""
BLOCKS = """
from diffusers.modular_pipelines import FluxAutoBlocks, SequentialPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam, OutputParam


class Blacken(ModularPipelineBlocks):
    @property
    def inputs(self):
        return [InputParam(name="images", required=True)]

    @property
    def intermediate_outputs(self):
        return [OutputParam(name="images")]

    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        block_state.images = [each.point(lambda value: 0) for each in block_state.images]
        self.set_block_state(state, block_state)
        return components, state


class Blackened(SequentialPipelineBlocks):
    model_name = "flux"
    block_classes = [FluxAutoBlocks, Blacken]
    block_names = ["draw", "blacken"]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build_sd(folder / "tiny" / "sd")
    build_flux(folder / "tiny" / "flux")
    index = folder / "tiny" / "flux" / "modular_config.json"
    index.write_text(json.dumps({"auto_map": {"ModularPipelineBlocks": "own.Blackened"}}))
    index.with_name("own.py").write_text(BLOCKS)
    return folder


@pytest.fixture
def code(models: Path) -> Path:
    """Folder of a repository with its own pipeline."""
    folder = models / CODE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.py").write_text(DARKER)
    (folder / "brightness.py").write_text("DIVISOR = 2\n")
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def planned(bench: Bench, models: Path, step: Document, *trusted: str) -> Plan:
    path = bench.write(document(step))
    return make_plan(
        path, {}, paths=PathSettings(models=(models,), trust_remote_code=trusted), seed=1
    )


def drawing(**loading: Any) -> Document:
    return step("draw", "tiny/sd", loading=loading, width=64, height=64)


def refused(bench: Bench, models: Path, step: Document, *trusted: str) -> dict[str, str]:
    with pytest.raises(InvalidWorkflow) as caught:
        planned(bench, models, step, *trusted)
    at = "steps[0].pipeline.from_pretrained_arguments."
    return {
        each.place.removeprefix(at): f"{each.message} {each.hint}" for each in caught.value.problems
    }


@pytest.mark.parametrize(
    ("loading", "place", "named"),
    [
        ({"custom_pipeline": CODE, "trust_remote_code": True}, "custom_pipeline", CODE),
        ({"trust_remote_code": True}, "trust_remote_code", "tiny/sd"),
    ],
)
def test_remote_code_is_refused_by_default(
    bench: Bench, models: Path, loading: Document, place: str, named: str
):
    assert f"--trust-remote-code {named}" in refused(bench, models, drawing(**loading))[place]
    # Trust in one repository does not extend to another.
    assert place in refused(bench, models, drawing(**loading), "somebody/else")


@pytest.mark.parametrize("named", ["lpw_stable_diffusion", "./code", "/tmp/code.py", "a/b/c", 7])
def test_remote_code_can_be_allowed_for_repositories_only(bench: Bench, models: Path, named: Any):
    wrong = refused(bench, models, drawing(custom_pipeline=named), CODE)
    assert "only that of a repository" in wrong["custom_pipeline"]


def test_allowed_remote_pipeline_uses_shared_components(bench: Bench, models: Path, code: Path):
    plain = bench.run(planned(bench, models, drawing()))
    darker = planned(bench, models, drawing(custom_pipeline=CODE), CODE)
    drawn = bench.run(darker)
    assert drawn.success.loaded == ()
    assert (pixels(drawn)[0] == pixels(plain)[0] // 2).all()
    assert same(drawn, bench.run(darker, fresh=False))

    (code / "brightness.py").write_text("DIVISOR = 4\n# another length\n")
    again = bench.run(darker, fresh=False)
    assert (pixels(again)[0] == pixels(plain)[0] // 4).all(), "the old code's result was remembered"


def test_broken_remote_code_is_a_sentence(bench: Bench, models: Path, code: Path):
    (code / "brightness.py").write_text("import a_package_that_nobody_has\n")
    plan = planned(bench, models, drawing(custom_pipeline=CODE), CODE)
    failed = bench.run(plan).terminal
    assert isinstance(failed, RunFailed)
    assert "pipeline.py" in failed.error.message
    assert "a_package_that_nobody_has" in failed.error.hint


def test_allowed_remote_blocks_are_run(bench: Bench, models: Path):
    drawn = bench.run(planned(bench, models, blocks(trust_remote_code=True), "tiny/flux"))
    assert (pixels(drawn)[0] == 0).all()
    refused_ = bench.run(planned(bench, models, blocks(), "tiny/flux")).terminal
    assert isinstance(refused_, RunFailed)
    assert "trust_remote_code" in refused_.error.hint


def blocks(**loading: Any) -> Document:
    drawn = step("draw", "tiny/flux", loading=loading, width=64, height=64)
    drawn["pipeline"]["configuration"]["component_type"] = "ModularPipeline"
    return drawn


def test_remote_code_is_allowed_by_environment():
    settings = Settings.from_environment({"DW_TRUST_REMOTE_CODE": "a/b c/d"})
    assert settings.paths.trust_remote_code == ("a/b", "c/d")


def test_global_random_numbers_follow_the_seed(bench: Bench, models: Path):
    code = models / "somebody" / "drawing"
    code.mkdir(parents=True)
    (code / "pipeline.py").write_text(DRAWING)
    wanted = drawing(custom_pipeline="somebody/drawing", trust_remote_code=True)
    plan = planned(bench, models, wanted, "somebody/drawing")
    state = torch.random.get_rng_state()
    first, second = bench.run(plan), bench.run(plan)
    assert same(first, second)
    # Other random numbers are not affected.
    assert torch.equal(torch.random.get_rng_state(), state)
