"""Documents that name a decoder: the plan includes its prior's components."""

from __future__ import annotations

import json
from pathlib import Path

from app.dialect.plan import PipelineStep
from app.planning.loading_arguments import OF_PRIOR, PRIOR_OF
from app.planning.planner import make_plan
from app.settings import PathSettings

DECODER = "kandinsky-community/kandinsky-2-2-decoder"


def planned(folder: Path, kind: str, model: str = DECODER, **loading: str) -> PipelineStep:
    step = {
        "name": "draw",
        "pipeline": {
            "configuration": {"component_type": kind},
            "from_pretrained_arguments": {"model_name": model, **loading},
            "arguments": {"prompt": "a star"},
        },
        "result": {"content_type": "image/png"},
    }
    path = folder / "flow.json"
    path.write_text(json.dumps({"id": "flow", "steps": [step]}))
    (found,) = make_plan(path, {}, paths=PathSettings()).steps
    assert isinstance(found, PipelineStep)
    return found


def test_combined_pipeline_has_components_of_both_models(tmp_path: Path):
    step = planned(tmp_path, "AutoPipelineForText2Image", torch_dtype="torch.float16")
    assert step.components.keys() == {f"prior_{name}" for name in OF_PRIOR}
    prior = step.components["prior_prior"]
    assert (prior.source.model, prior.source.subfolder) == (PRIOR_OF[DECODER], "prior")
    assert prior.dtype == "float16"


def test_other_pipelines_have_one_model(tmp_path: Path):
    assert planned(tmp_path, "AutoPipelineForText2Image", "owner/name").components == {}


def test_prior_may_be_in_models_folder(tmp_path: Path):
    (tmp_path / PRIOR_OF[DECODER]).mkdir(parents=True)
    path = tmp_path / "flow.json"
    planned(tmp_path, "AutoPipelineForText2Image")
    plan = make_plan(path, {}, paths=PathSettings(models=(tmp_path,)))
    (step,) = plan.steps
    assert isinstance(step, PipelineStep)
    folders = {block.source.folder for block in step.components.values()}
    assert folders == {str(tmp_path / PRIOR_OF[DECODER])}
