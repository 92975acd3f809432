"""A trusted repository's own pipeline is checked by its own call, which is read and not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.dialect.plan import PipelineStep
from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.plan_bench import Bench, drawing, step

CODE = "somebody/darker"
AT = "steps[0].pipeline.arguments"
NAMED = """
raise RuntimeError("planning runs no code")
from diffusers import DiffusionPipeline
class Helper:
    def __call__(self, other): ...
class DarkerPipeline(DiffusionPipeline):
    def __call__(self, prompt: str, darkness: float = 0.5): ...
"""
INHERITED = """
import diffusers
class DarkerPipeline(diffusers.StableDiffusionPipeline):
    pass
"""
INDIRECT = """
from diffusers import StableDiffusionPipeline
class Called:
    def __call__(self, prompt, *, darkness): ...
class DarkerPipeline(Called, StableDiffusionPipeline): ...
"""
OPEN = """
from diffusers import StableDiffusionPipeline
class DarkerPipeline(StableDiffusionPipeline):
    def __call__(self, prompt, **others): ...
"""
TWO = f"{NAMED}\nclass OtherPipeline(DarkerPipeline): ..."
BROKEN = "class DarkerPipeline(:"


@pytest.fixture
def trusting(bench: Bench) -> Bench:
    """Allows the repository's code, which is on this machine."""
    (bench.model.parent / CODE).mkdir(parents=True)
    bench.paths = PathSettings(
        models=bench.paths.models, media=bench.paths.media, trust_remote_code=(CODE,)
    )
    return bench


def calling(bench: Bench, code: str, module: str = "pipeline", **arguments: Any) -> dict[str, Any]:
    (bench.model.parent / CODE / f"{module}.py").write_text(code)
    model = {"model_name": "../models/tiny", "custom_pipeline": CODE}
    return drawing(steps=[step(arguments=arguments, from_pretrained_arguments=model)])


@pytest.mark.parametrize(
    ("code", "given"),
    [
        (NAMED, {"darkness": 0.7}),
        (INHERITED, {"num_inference_steps": 3}),
        (INDIRECT, {"darkness": "variable:steps"}),
        (OPEN, {"anything": 1}),
        (TWO, {"anything": 1}),
        (BROKEN, {"anything": 1}),
    ],
    ids=["named", "inherited", "indirect", "open", "two", "broken"],
)
def test_own_pipeline_may_take_other_arguments_than_its_model(
    trusting: Bench, code: str, given: dict[str, Any]
):
    (planned,) = trusting.plan(calling(trusting, code, prompt="a fox", **given)).steps
    assert isinstance(planned, PipelineStep)
    assert set(planned.arguments) == {"prompt", *given}


@pytest.mark.parametrize(
    ("code", "given", "place", "sentence"),
    [
        (NAMED, {"darknes": 1}, ".darknes", "DarkerPipeline takes no 'darknes'. Did you mean"),
        (NAMED, {"negative_prompt": ""}, ".negative_prompt", "DarkerPipeline takes no"),
        (NAMED, {"darkness": "much"}, ".darkness", "A number is needed, not 'much'."),
        (INDIRECT, {}, "", "'darkness' is missing."),
        (INHERITED, {"darkness": 1}, ".darkness", "DarkerPipeline takes no 'darkness'."),
    ],
)
def test_mistake_in_call_of_own_pipeline_is_refused(
    trusting: Bench, code: str, given: dict[str, Any], place: str, sentence: str
):
    found = trusting.problems(calling(trusting, code, prompt="a fox", **given))
    assert list(found) == [AT + place]
    assert found[AT + place].startswith(sentence)


def test_index_names_module_of_own_pipeline(trusting: Bench):
    index = trusting.model / "model_index.json"
    index.write_text(json.dumps({"_class_name": ["drawing", "DarkerPipeline"]}))
    document = calling(trusting, TWO, "drawing", prompt="a fox", darknes=1)
    (sentence,) = trusting.problems(document).values()
    assert sentence.startswith("DarkerPipeline takes no 'darknes'.")


def test_repository_without_pipeline_is_called_as_its_class(trusting: Bench):
    (sentence,) = trusting.problems(calling(trusting, NAMED, "other", darkness=1)).values()
    assert sentence.startswith("StableDiffusionPipeline takes no 'darkness'.")


def test_absent_code_is_not_checked(trusting: Bench):
    trusting.paths = PathSettings(models=trusting.paths.models, trust_remote_code=("some/other",))
    model = {"model_name": "../models/tiny", "custom_pipeline": "some/other"}
    trusting.plan(drawing(steps=[step(arguments={"x": 1}, from_pretrained_arguments=model)]))


def test_chain_and_reference_use_call_of_own_pipeline(trusting: Bench):
    document = calling(trusting, NAMED, prompt="a fox")
    chain = {"segments": 2, "segment_argument": "darkness", "prompts": ["a fox"]}
    document["steps"][0]["pipeline"]["chain"] = chain
    again = {"reference_name": "draw", "arguments": {"prompt": "a hen", "darkness": 1}}
    document["steps"].append({"name": "again", "pipeline_reference": again})
    assert len(trusting.plan(document).steps) == 2
    again["arguments"]["steps"] = 2
    assert list(trusting.problems(document).values()) == ["DarkerPipeline takes no 'steps'."]
    chain["segment_argument"] = "image"
    assert list(trusting.problems(document).values()) == ["DarkerPipeline takes no 'image'."]


def test_own_blocks_are_not_checked_against_those_of_the_index(tmp_path: Path):
    model = tmp_path / "models" / CODE
    model.mkdir(parents=True)
    index = {"_class_name": "MiniMaxH3ModularPipeline", "_blocks_class_name": "MiniMaxH3Blocks"}
    (model / "modular_model_index.json").write_text(json.dumps(index))
    (model / "modular_config.json").write_text("{}")
    block = {
        "configuration": {"component_type": "ModularPipeline", "configs": {"dark": True}},
        "from_pretrained_arguments": {"model_name": CODE, "trust_remote_code": True,
                                      "workflow": "darken"},
        "arguments": {"darkness": 1},
    }  # fmt: skip
    path = tmp_path / "flow.json"
    path.write_text(json.dumps({"id": "t", "steps": [{"name": "draw", "pipeline": block}]}))
    paths = PathSettings(models=(tmp_path / "models",), trust_remote_code=(CODE,))
    (planned,) = make_plan(path, {}, paths=paths, seed=1).steps
    assert isinstance(planned, PipelineStep)
    assert set(planned.arguments) == {"darkness"}
