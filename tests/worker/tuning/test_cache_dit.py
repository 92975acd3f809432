"""The cache of cache-dit: undone after its step, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidWorkflow
from app.packages import Package
from app.planning import component_settings
from app.protocol import Event, RunCancelled, StepProgress
from tests.worker.bench import Bench, document, same, step
from tests.worker.tuning.flux import with_flux

CACHE = {"type": "cache_dit", "threshold": 9.0, "first_blocks": 1, "warmup_steps": 2}


def denoiser(bench: Bench) -> Any:
    (found,) = (e.component for e in bench.runner.residency.entries if "transformer" in e.title)
    return found


def test_denoiser_is_as_before_after_the_step(bench: Bench, flux: Path):
    bench.run(with_flux(flux))
    before = dict(denoiser(bench).__dict__)
    assert bench.run(with_flux(flux, cache=CACHE)).success
    after = denoiser(bench).__dict__
    assert before.keys() == after.keys()
    assert "forward" not in after


def test_cancelled_run_leaves_no_cache(bench: Bench, flux: Path):
    before = bench.run(with_flux(flux))

    def cancel_while_denoising(event: Event) -> None:
        if isinstance(event, StepProgress) and event.done == 3:
            bench.cancel(event.run_id)

    bench.when = cancel_while_denoising
    assert isinstance(bench.run(with_flux(flux, cache=CACHE)).terminal, RunCancelled)
    bench.when = lambda _event: None
    assert same(before, bench.run(with_flux(flux)))


def test_pipeline_that_the_package_does_not_know_is_refused_before_loading(bench: Bench):
    wanted = step()
    wanted["pipeline"]["configuration"]["cache"] = CACHE
    finished = bench.run(document(wanted))
    assert finished.terminal.type == "run_failed"
    assert finished.terminal.error.message == (
        "The denoiser of StableDiffusionPipeline has no cache."
    )
    assert not bench.runner.residency.entries


def test_cache_and_compilation_of_the_whole_are_refused_together(bench: Bench, flux: Path):
    compiled = {"transformer": {"compile": {"repeated_blocks": True}}}
    finished = bench.run(with_flux(flux, cache=CACHE, components=compiled))
    assert finished.terminal.type == "run_failed"
    assert "cannot be both compiled and cached by 'cache_dit'" in finished.terminal.error.message


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"first_blocks": 0}, {"warmup_steps": -1}])
def test_options_are_checked_while_planning(wrong: dict[str, Any], bench: Bench, flux: Path):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(with_flux(flux, cache={**CACHE, **wrong}))
    (problem,) = caught.value.problems
    assert problem.place.startswith("steps[0].pipeline.configuration.cache")


def test_package_is_named_where_it_is_missing():
    assert Package("cache_dit", "cache-dit") == component_settings.CACHE_DIT
    assert component_settings.CACHE_DIT.how_to_add == ("Add it with: pip install cache-dit==1.5.3")
