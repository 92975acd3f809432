"""What a step loads is the same for planning, the fit line, and the worker: one list of specs."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import PathSettings
from app.worker.device import Device
from app.worker.loading.load import find_parts
from app.worker.loading.parts import StepParts
from app.worker.loading.task_parts import find_task_parts
from app.workflow.models.fit import Room
from app.workflow.models.needs import lines
from app.workflow.models.resolve import component_names, component_specs
from app.workflow.models.specs import ComponentSpec, StepSpecs, Unknown
from app.workflow.plan import PipelineStep, Plan, SubWorkflowStep
from app.workflow.planning.planner import make_plan
from tests.corpus.bench import make_media, with_children, write_own
from tests.corpus.own import OWN, Own
from tests.corpus.real import REAL, Runs
from tests.standins import StandIns

ROOM = Room(device_bytes=1 << 40, ram_bytes=0, total_bytes=1 << 40)
# Said by libraries of themselves, when the classes of pipelines are looked up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
RUNNING = [name for name, line in REAL.items() if isinstance(line, Runs)]


def identities(components: tuple[ComponentSpec, ...]) -> list[tuple[str, str, int]]:
    return [(each.name, each.key, each.weight_bytes) for each in components]


def check(plan: Plan) -> None:
    """Asserts that all who read what the plan loads read the same."""
    specs: dict[str, StepSpecs] = {}
    parts: dict[str, StepParts] = {}
    for step in plan.steps:
        if isinstance(step, SubWorkflowStep) or not step.sources:
            continue
        before = {name: each.components for name, each in specs.items()}
        if isinstance(step, PipelineStep):
            found: StepParts = find_parts(step, parts)
            named = component_names(step)
            assert {each.name for each in found.parts} <= {
                *(name for name, is_there in named.items() if is_there),
                "image_encoder",
            }
        else:
            found = find_task_parts(step, Device("cpu"))
        parts[step.name] = found
        try:
            specs[step.name] = component_specs(step, earlier=before)
        except Unknown:
            # Of a modular pipeline's workflow only its blocks know the components.
            if isinstance(step, PipelineStep) and step.modular is not None:
                continue
            raise
        assert identities(specs[step.name].components) == identities(found.parts)
        assert specs[step.name].weight_bytes == found.weight_bytes
    told = lines(plan, ROOM)
    for name, each in specs.items():
        if each.weight_bytes:
            mine = told[0] if len(told) == 1 else next(t for t in told if f"'{name}'" in t)
            assert "memory needs unknown" not in mine


@pytest.mark.parametrize("own", OWN, ids=lambda own: own.name)
def test_specs_of_our_own_documents_are_the_same_for_all(
    own: Own, stand_ins: StandIns, tmp_path: Path
):
    make_media(tmp_path)
    stand_ins.add_named(own.document)
    paths = PathSettings(models=(stand_ins.folder,), media=(tmp_path,))
    check(make_plan(write_own(own, tmp_path), {}, paths=paths, seed=1))


@pytest.mark.parametrize("name", RUNNING)
def test_specs_of_third_party_documents_are_the_same_for_all(
    name: str, stand_ins: StandIns, real_workflows: Path, tmp_path: Path
):
    for document in with_children(real_workflows / name):
        stand_ins.add_named(document)
    paths = PathSettings(models=(stand_ins.folder,), media=(tmp_path,))
    line = REAL[name]
    assert isinstance(line, Runs)
    plan = make_plan(real_workflows / name, line.inputs, paths=paths, seed=1, changes=line.changes)
    check(plan)
