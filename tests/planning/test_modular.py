"""Planning of modular pipelines: inputs of blocks are known without importing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.installed.blocks import blocks_of, modular_class_of
from app.dialect.plan import PipelineStep, Plan
from app.errors import InvalidWorkflow
from app.planning.planner import make_plan
from app.settings import PathSettings

H3 = {
    "_class_name": "MiniMaxH3ModularPipeline",
    "_blocks_class_name": "MiniMaxH3Blocks",
    "transformer": [
        "diffusers",
        "MiniMaxH3Transformer3DModel",
        {
            "pretrained_model_name_or_path": "somebody/transformers",
            "subfolder": "transformer",
            "type_hint": ["diffusers", "MiniMaxH3Transformer3DModel"],
        },
    ],
}
"""The index of a model whose transformer is in another repository."""


def planned(folder: Path, configuration: dict[str, Any], **pipeline: Any) -> Plan:
    model = folder / "models" / "tiny" / "h3"
    model.mkdir(parents=True, exist_ok=True)
    index, also = pipeline.pop("index", H3), pipeline.pop("also", [])
    before = pipeline.pop("before", [])
    (model / "modular_model_index.json").write_text(json.dumps(index))
    block = {
        "configuration": {"component_type": "ModularPipeline", **configuration},
        "from_pretrained_arguments": {"model_name": "tiny/h3", **pipeline.pop("loading", {})},
        "arguments": {"prompt": "a fox"},
        **pipeline,
    }
    path = folder / "flow.json"
    steps = [*before, {"name": "draw", "pipeline": block}, *also]
    path.write_text(json.dumps({"id": "t", "steps": steps}))
    return make_plan(path, {}, paths=PathSettings(models=(folder / "models",)), seed=1)


def step_of(plan: Plan) -> PipelineStep:
    *_, step = plan.steps
    assert isinstance(step, PipelineStep)
    return step


def refused(folder: Path, configuration: dict[str, Any], **pipeline: Any) -> dict[str, str]:
    """Returns the problems by place."""
    with pytest.raises(InvalidWorkflow) as caught:
        planned(folder, configuration, **pipeline)
    return {found.place: f"{found.message} {found.hint}" for found in caught.value.problems}


def test_workflow_configs_and_dtypes_are_planned(tmp_path: Path):
    modular = step_of(
        planned(
            tmp_path,
            {
                "configs": {"canvas_short_edge": 512},
                "load_components": {"names": ["vae"], "dtype": {"vae": "torch.float16"}},
                "components_manager": {"enable_auto_cpu_offload": True},
            },
            loading={"workflow": "t2va"},
        )
    ).modular
    assert modular is not None
    assert modular.workflow == "t2va"
    assert modular.configs == {"canvas_short_edge": 512}
    assert modular.names == ("vae",)
    assert modular.dtypes == {"vae": "float16"}


def test_components_manager_is_a_warning(tmp_path: Path):
    configured = {"components_manager": {"enable_auto_cpu_offload": True}}
    told = planned(tmp_path, configured).warnings
    at = "steps[0].pipeline.configuration.components_manager has no effect: "
    assert [text.startswith(at) for text in told] == [True]


def test_components_of_other_repositories_are_sources_of_the_step(tmp_path: Path):
    elsewhere = tmp_path / "models" / "somebody" / "transformers"
    elsewhere.mkdir(parents=True)
    step = step_of(planned(tmp_path, {}))
    assert [source.folder for source in step.sources] == [
        str(tmp_path / "models" / "tiny" / "h3"),
        str(elsewhere),
    ]


def test_mistakes_are_reported_with_nearest_name(tmp_path: Path):
    wrong = refused(
        tmp_path,
        {"configs": {"canvas_short_age": 512}, "load_components": {"dtype": "torch.float61"}},
        loading={"workflow": "t2v"},
        arguments={"promt": "a fox", "num_frames": "many"},
    )
    at = "steps[0].pipeline"
    assert "canvas_short_edge" in wrong[f"{at}.configuration.configs.canvas_short_age"]
    assert "float61" in wrong[f"{at}.configuration.load_components.dtype"]
    assert "'t2va'" in wrong[f"{at}.from_pretrained_arguments.workflow"]
    assert "'prompt'" in wrong[f"{at}.arguments.promt"]
    assert "whole number" in wrong[f"{at}.arguments.num_frames"]


@pytest.mark.parametrize(
    ("workflow", "missing"), [("t2va", "prompt"), ("ref2va", "references"), (None, "prompt")]
)
def test_missing_arguments_of_workflow_are_reported(
    tmp_path: Path, workflow: str | None, missing: str
):
    given = {"prompt": "a fox"} if missing != "prompt" else {}
    wrong = refused(tmp_path, {}, loading={"workflow": workflow}, arguments=given)
    assert f"'{missing}' is missing" in wrong["steps[0].pipeline.arguments"]


def test_modular_keys_are_refused_for_ordinary_pipeline(tmp_path: Path):
    wrong = refused(
        tmp_path,
        {"component_type": "FluxPipeline", "load_components": {}, "configs": {"a": 1}},
        loading={"workflow": "t2va"},
    )
    for place in ("configuration.load_components", "configuration.configs",
                  "from_pretrained_arguments.workflow"):  # fmt: skip
        assert "is for modular pipelines" in wrong[f"steps[0].pipeline.{place}"]


def test_blocks_are_refused_as_pipelines(tmp_path: Path):
    wrong = refused(tmp_path, {"component_type": "MiniMaxH3Blocks"})
    assert (
        "is a set of blocks; a pipeline class is needed"
        in wrong["steps[0].pipeline.configuration.component_type"]
    )


@pytest.mark.parametrize("named", ["ModularPipeline", "MiniMaxH3ModularPipeline"])
def test_chain_is_checked_against_inputs_of_blocks(tmp_path: Path, named: str):
    taken = blocks_of("MiniMaxH3ModularPipeline")
    assert taken is not None
    (argument, *_) = (each.name for each in taken.inputs if "image" in each.name)
    configuration = {"component_type": named}
    chain = {"segments": 2, "segment_argument": argument, "prompts": ["a fox", "a hen"]}
    assert step_of(planned(tmp_path, configuration, chain=chain)).chain is not None
    wrong = refused(tmp_path, configuration, chain={**chain, "segment_argument": f"{argument}x"})
    assert wrong == {
        "steps[0].pipeline.chain.segment_argument": (
            f"{named} takes no '{argument}x'. Did you mean '{argument}'?"
        )
    }


SUBJECT = {
    "reference_type": "MiniMaxH3ImageReference", "from_arguments": {"image": "fox.png"}
}  # fmt: skip
MADE = {"reference_type": "MiniMaxH3VideoReference", "from_previous_result": "words"}
LAST_SEGMENT = {"segments": 2, "continuity": "last_segment", "segment_argument": "references"}
"""A chain whose segments become one more reference each."""


@pytest.mark.parametrize("references", [[SUBJECT], [MADE], [MADE, SUBJECT],
                                        "previous_result:words"])  # fmt: skip
def test_last_segment_continues_a_list_of_references(tmp_path: Path, references: Any):
    Image.new("RGB", (8, 8)).save(tmp_path / "fox.png")
    arguments = {"prompt": "a fox", "references": references, "num_frames": 141}
    words = {"name": "words", "task": {"command": "gather_inputs", "inputs": ["a", "b"]}}
    wanted = {"arguments": arguments, "before": [words]}
    assert step_of(planned(tmp_path, {}, **wanted, chain=LAST_SEGMENT)).chain is not None
    wrong = refused(tmp_path, {}, **wanted, chain={**LAST_SEGMENT, "carry_frames": 142})
    assert list(wrong.values()) == ["A segment has 141 frames, fewer than 142. "]


@pytest.mark.parametrize(
    ("references", "sentence"),
    [
        (None, "The last segment cannot be 'references': that is no list of references."),
        ("a fox", "The last segment cannot be 'references': that is no list of references."),
        ([1, 2], "The last segment cannot be 'references': that is no list of references."),
        ([], "The list 'references' is empty: its references tell what a segment becomes."),
    ],
)
def test_last_segment_without_references_is_refused(tmp_path: Path, references: Any, sentence: str):
    arguments = {"prompt": "a fox", "references": references}
    wrong = refused(tmp_path, {}, arguments=arguments, chain=LAST_SEGMENT)
    assert wrong["steps[0].pipeline.chain.segment_argument"].startswith(sentence)


def test_chain_of_unknown_blocks_is_not_checked(tmp_path: Path):
    index = {"_class_name": "ModularPipeline", "_blocks_class_name": "SomebodysBlocks"}
    chain = {"segments": 2, "segment_argument": "first_frame", "prompts": ["a fox"]}
    assert step_of(planned(tmp_path, {}, index=index, chain=chain)).chain is not None


def test_chain_of_pipeline_reference_is_checked_against_inputs_of_blocks(tmp_path: Path):
    chain = {"segments": 2, "segment_argument": "references"}
    again = {
        "name": "again",
        "pipeline_reference": {
            "reference_name": "draw", "arguments": {"prompt": "a hen"}, "chain": chain
        },
    }  # fmt: skip
    _, chained = planned(tmp_path, {}, also=[again]).steps
    assert isinstance(chained, PipelineStep)
    assert chained.chain is not None
    chain["segment_argument"] = "reference"
    (sentence,) = refused(tmp_path, {}, also=[again]).values()
    assert sentence == "ModularPipeline takes no 'reference'. Did you mean 'references'?"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parsed_blocks_equal_their_declarations():
    """For every modular pipeline of diffusers, compared with the blocks themselves."""
    import diffusers
    from diffusers.modular_pipelines.modular_pipeline import MODULAR_PIPELINE_MAPPING

    read = 0
    for choose in MODULAR_PIPELINE_MAPPING.values():
        name = choose()
        found = blocks_of(name)
        assert found is not None, name
        real = getattr(diffusers, getattr(diffusers, name).default_blocks_name)()
        assert {each.name for each in found.inputs} == {
            each.name or each.kwargs_type for each in real.inputs
        }, name
        assert set(found.configs) == {each.name for each in real.expected_configs}, name
        assert set(found.workflows) == set(real._workflow_map or ()), name
        read += 1
    assert read > 30


def test_ordinary_pipeline_has_modular_class_of_family():
    assert modular_class_of("FluxPipeline") == "FluxModularPipeline"
    assert modular_class_of("StableDiffusionXLPipeline") == "StableDiffusionXLModularPipeline"
    # For Wan it depends on the model.
    assert modular_class_of("WanPipeline") == ""
    assert modular_class_of("StableDiffusionPipeline") == ""
