"""Shipped workflows plan; third-party workflows plan or are refused in sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from app.dialect.loader import read_document
from app.dialect.plan import Plan
from app.errors import InvalidInputs, InvalidWorkflow, Problem
from app.planning.declarations import declared_inputs
from app.planning.planner import make_plan
from app.settings import BUILTIN_WORKFLOWS, SHIPPED_WORKFLOWS, PathSettings
from tests.conftest import REAL_WORKFLOWS
from tests.corpus.shipped import NEEDS_PACKAGE
from tests.standins.families import build_narrow
from tests.standins.webui import narrow_controlnet

SHIPPED = sorted(SHIPPED_WORKFLOWS.glob("*.json"))
BUILTIN = sorted(BUILTIN_WORKFLOWS.glob("*.json"))
OTHER_WORKFLOWS = sorted(Path(REAL_WORKFLOWS).rglob("*.json")) if REAL_WORKFLOWS else []


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name in ("image", "mask"):
        Image.new("RGB", (128, 128), "white").save(tmp_path / f"{name}.png")
    return tmp_path


def planned(file: Path, media: Path) -> Plan:
    """Returns the plan with the defaults, and an image for each required image input."""
    asked = declared_inputs(read_document(file))
    pictures = {
        spec.name: str(media / f"{spec.kind}.png")
        for spec in asked
        if spec.kind in ("image", "mask") and spec.default is None
    }
    checkpoint = media / "checkpoints" / "dream.safetensors"
    for spec in asked:
        if spec.models == "checkpoints":
            build_narrow("sd15", checkpoint)
            pictures[spec.name] = checkpoint.stem
        if spec.models == "controlnet":
            controlnet = media / "controlnet" / "canny.safetensors"
            controlnet.parent.mkdir()
            save_file(narrow_controlnet("sd15").state_dict(), controlnet)
            pictures[spec.name] = controlnet.stem
    models = (*PathSettings().models, media)
    return make_plan(file, pictures, paths=PathSettings(media=(media,), models=models))


def outcome(file: Path, media: Path) -> tuple[Plan | None, tuple[Problem, ...]]:
    """Returns the plan, or the workflow's problems."""
    try:
        return planned(file, media), ()
    except (InvalidWorkflow, InvalidInputs) as error:
        return None, error.problems


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_workflow_plans_with_defaults(file: Path, media: Path):
    plan, problems = outcome(file, media)
    if file.stem in NEEDS_PACKAGE and problems:
        assert [" not installed" in str(problem) for problem in problems] == [True]
        return
    assert plan is not None
    assert problems == ()
    assert plan.steps
    assert plan.warnings == () or "float16" in plan.warnings[0]
    assert plan.steps[-1].result is not None


@pytest.mark.parametrize("file", BUILTIN, ids=lambda file: file.stem)
def test_builtin_workflow_plans_with_defaults(file: Path, media: Path):
    assert planned(file, media).steps


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_defaults_are_within_limits(file: Path):
    for spec in declared_inputs(read_document(file)):
        if isinstance(spec.default, int | float) and spec.minimum is not None:
            assert spec.maximum is not None
            assert spec.minimum <= spec.default <= spec.maximum, spec.name
        if spec.mask_of is not None:
            variables = json.loads(file.read_bytes())["variables"]
            assert spec.mask_of in variables


@pytest.mark.parametrize(
    "file", OTHER_WORKFLOWS, ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_third_party_workflow_plans_or_is_refused_with_places(file: Path, media: Path):
    plan, problems = outcome(file, media)
    said = [str(found) for found in problems]
    assert all(found.place and found.message for found in problems)
    assert len(set(said)) == len(said)
    assert (plan is None) == bool(problems)
    if plan is not None:
        assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_mistake_in_third_party_workflow_suggests_nearest(media: Path, real_workflows: Path):
    with pytest.raises(InvalidWorkflow) as caught:
        planned(real_workflows / "flux" / "FluxFill.json", media)
    assert (
        "steps[0].pipeline.arguments.image.location: There is no variable 'image'. "
        "Did you mean 'mage'?"
    ) in map(str, caught.value.problems)
