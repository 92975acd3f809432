"""The worker loads what preparing found, as long as the files are still the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.dialect.plan import Plan
from app.models.plan_specs import plan_specs
from app.models.specs import PlanSpecs
from app.protocol import Event, RunSucceeded, StartRun, decode_command, encode
from tests.worker.bench import Bench, document, step


def in_half_precision(specs: PlanSpecs, name: str) -> PlanSpecs:
    """The specs with one component in a dtype in which nobody would resolve it."""
    steps = {
        step: replace(
            each,
            components=tuple(
                replace(part, dtype="bfloat16") if part.name == name else part
                for part in each.components
            ),
        )
        for step, each in specs.steps.items()
    }
    return replace(specs, steps=steps)


def loaded(bench: Bench, plan: Plan, specs: PlanSpecs) -> list[str]:
    """The titles of what was loaded for a run with these specs, sent as the engine sends them."""
    events: list[Event] = []
    bench.when = events.append
    command = decode_command(
        encode(StartRun(run_id="20260101-000000-ffffff", plan=plan, specs=specs))
    )
    assert isinstance(command, StartRun)
    bench.runner.run(command)
    return list(next(event for event in events if isinstance(event, RunSucceeded)).loaded)


def test_what_is_loaded_is_the_list_that_was_sent(bench: Bench, model: Path):
    plan = bench.plan(document(step(model=model)))
    titles = loaded(bench, plan, in_half_precision(plan_specs(plan.steps), "safety_checker"))
    assert [title for title in titles if "bfloat16" in title] == [
        "safety_checker of model (bfloat16)"
    ]


def test_everything_is_resolved_anew_when_a_file_has_changed(bench: Bench, model: Path):
    plan = bench.plan(document(step(model=model)))
    specs = in_half_precision(plan_specs(plan.steps), "safety_checker")
    (model / "vae" / "config.json").touch()
    assert not any("bfloat16" in title for title in loaded(bench, plan, specs))


def test_everything_is_resolved_anew_for_another_kind_of_device(bench: Bench, model: Path):
    plan = bench.plan(document(step(model=model)))
    specs = in_half_precision(plan_specs(plan.steps, accelerator=True), "safety_checker")
    assert not any("bfloat16" in title for title in loaded(bench, plan, specs))


def test_reused_component_of_a_sent_list_is_the_other_step_s_own(bench: Bench, model: Path):
    plan = bench.plan(
        document(
            step("one", model=model, blocks={"shared_components": ["unet", "vae"]}),
            step("two", model=model, blocks={"reused_components": ["unet", "vae"]}),
        )
    )
    titles = loaded(bench, plan, plan_specs(plan.steps))
    assert len(titles) == len(set(titles))
    assert {entry.title for entry in bench.runner.residency.entries} == set(titles)
