"""One list of component specs: the same for planning, catalog, fit, keys and the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.dialect.loader import read_document
from app.dialect.plan import PipelineStep, Plan, Step, SubWorkflowStep
from app.models.fit import Room
from app.models.needs import lines, weighed_specs
from app.models.plan_specs import plan_specs
from app.models.resolve import component_names
from app.models.specs import ComponentSpec, PlanSpecs, StepSpecs
from app.planning.drafts import draft_plan
from app.planning.planner import make_plan
from app.planning.request_keys import request_key
from app.protocol import StartRun, decode_command, encode
from app.settings import PathSettings
from app.worker.device import Device
from app.worker.loading.parts import Parts
from app.worker.loading.plan_parts import plan_parts
from app.worker.step_results import StepResults
from tests.corpus.bench import make_media, with_children, write_own
from tests.corpus.own import OWN, Own
from tests.corpus.real import REAL, Runs
from tests.standins import StandIns

ROOM = Room(device_bytes=1 << 40, ram_bytes=0, total_bytes=1 << 40)
# Warnings of libraries about themselves, when pipeline classes are imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CPU = Device("cpu")
RUNNING = [name for name, line in REAL.items() if isinstance(line, Runs)]


def identities(components: tuple[ComponentSpec, ...]) -> list[tuple[str, str, int]]:
    return [(each.name, each.key, each.weight_bytes) for each in components]


def check(plan: Plan, paths: PathSettings) -> None:
    """Asserts that all readers of the plan's specs get the same bytes and identities."""
    specs = sent(plan)
    assert specs.is_whole or any(map(is_modular, plan.steps))
    check_worker(plan, specs)
    check_keys(plan, specs)
    check_planning(plan, specs)
    check_fit(plan, specs)
    check_catalog(plan, specs, paths)


def check_worker(plan: Plan, specs: PlanSpecs) -> None:
    """Asserts that the worker gets the same parts from sent specs as by resolving."""
    resolved, given = (plan_parts(plan, each, CPU) for each in (None, specs))
    assert given.keys() == resolved.keys() >= specs.steps.keys()
    for name, parts in given.items():
        assert identities(parts.parts) == identities(resolved[name].parts)
        if isinstance(parts, Parts):
            assert parts == resolved[name]
    for name, each in specs.steps.items():
        assert identities(each.components) == identities(given[name].parts)
        assert each.weight_bytes == given[name].weight_bytes


def check_keys(plan: Plan, specs: PlanSpecs) -> None:
    """Asserts equal keys of the request, on both sides of the pipe, and of the results."""
    here = plan_specs(plan.steps)
    assert request_key(plan, "cpu", specs) == request_key(plan, "cpu", here)
    resolved, given = (
        StepResults(0).look_up(plan, plan_parts(plan, each, CPU), CPU, fresh=True).keys
        for each in (None, specs)
    )
    assert given == resolved


def check_planning(plan: Plan, specs: PlanSpecs) -> None:
    """Asserts that planning knows the components by name."""
    for step in plan.steps:
        if isinstance(step, PipelineStep) and step.name in specs.steps:
            named = component_names(step)
            assert {each.name for each in specs.steps[step.name].components} <= {
                *(name for name, is_there in named.items() if is_there),
                "image_encoder",
            }


def check_fit(plan: Plan, specs: PlanSpecs) -> None:
    """Asserts that the fit line counts the same components."""
    earlier: dict[str, StepSpecs] = {}
    for step in plan.steps:
        if step.name not in specs.steps or not specs.steps[step.name].weight_bytes:
            continue
        assert not isinstance(step, SubWorkflowStep)
        earlier[step.name] = found = weighed_specs(step, earlier=earlier)
        assert identities(found.components) == identities(specs.steps[step.name].components)
    told = lines(plan, ROOM)
    for name in earlier:
        mine = told[0] if len(told) == 1 else next(t for t in told if f"'{name}'" in t)
        assert "memory needs unknown" not in mine


def check_catalog(plan: Plan, specs: PlanSpecs, paths: PathSettings) -> None:
    """Asserts that the catalog gets the same for the document with its defaults."""
    if plan.changes:
        return
    listed = plan_specs(draft_plan(read_document(Path(plan.workflow_path)), paths).steps)
    assert listed.steps.keys() == specs.steps.keys()
    for name, each in listed.steps.items():
        assert identities(each.components) == identities(specs.steps[name].components)


def sent(plan: Plan) -> PlanSpecs:
    """Returns the specs of preparation as they reach the worker."""
    command = decode_command(encode(StartRun(run_id="1", plan=plan, specs=plan_specs(plan.steps))))
    assert isinstance(command, StartRun)
    assert command.specs is not None
    return command.specs


def is_modular(step: Step) -> bool:
    """Returns True if only its blocks may know the components."""
    return isinstance(step, PipelineStep) and step.modular is not None


@pytest.mark.parametrize("own", OWN, ids=lambda own: own.name)
def test_specs_of_our_own_documents_are_the_same_for_all(
    own: Own, stand_ins: StandIns, tmp_path: Path
):
    make_media(tmp_path)
    stand_ins.add_named(own.document)
    paths = PathSettings(models=(stand_ins.folder,), media=(tmp_path,))
    check(make_plan(write_own(own, tmp_path), {}, paths=paths, seed=1), paths)


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
    check(plan, paths)
