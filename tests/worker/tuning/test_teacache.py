"""TeaCache skips blocks of a Flux denoiser, in one step only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidWorkflow
from app.worker.tuning.teacache import FLUX, polynomial
from tests.standins import build_flux
from tests.worker.bench import Bench, Document, document, pixels, same, step

STEPS = 8


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flux of random weights. Read-only."""
    folder = tmp_path_factory.mktemp("models") / "flux"
    build_flux(folder)
    return folder


def drawn(flux: Path, *, steps: int = STEPS, **call: Any) -> Document:
    wanted = step(model=flux, num_inference_steps=steps, width=32, height=32, **call)
    wanted["pipeline"]["configuration"] = {"component_type": "FluxPipeline"}
    return document(wanted, id="plain")


def cached(flux: Path, teacache: Document, **call: Any) -> Document:
    wanted = drawn(flux, **call)
    wanted["steps"][0]["pipeline"]["configuration"]["teacache"] = teacache
    return {**wanted, "id": "cached"}


def computed(bench: Bench, wanted: Document) -> int:
    """Returns how often the denoiser's last block is computed."""
    bench.run(bench.write(wanted, wanted["id"]))
    (denoiser,) = (e.component for e in bench.runner.residency.entries if "transformer" in e.title)
    calls: list[object] = []
    norm = denoiser.single_transformer_blocks[-1].norm
    handle = norm.register_forward_hook(lambda *_: calls.append(None))
    assert bench.run(bench.write(wanted, wanted["id"])).success
    handle.remove()
    return len(calls)


def test_teacache_polynomial_matches_its_authors():
    expected = np.poly1d(FLUX)
    for value in (0.0, 0.05, 0.3, 1.0):
        assert polynomial(FLUX, value) == pytest.approx(float(expected(value)))


def test_teacache_with_zero_threshold_computes_all_steps(bench: Bench, flux: Path):
    before = bench.run(bench.write(drawn(flux), "plain"))
    assert same(before, bench.run(bench.write(cached(flux, {"rel_l1_thresh": 0}), "cached")))
    assert computed(bench, cached(flux, {"rel_l1_thresh": 0})) == STEPS


def test_teacache_skips_calls_between_first_and_last_step(bench: Bench, flux: Path):
    """Each call adds at least 0.3, so two are skipped after each computed one at 0.6 or more."""
    assert computed(bench, cached(flux, {"rel_l1_thresh": 1e9})) == 2
    constant = {"coefficients": [0, 0, 0, 0, 0.3], "rel_l1_thresh": 0.5}
    # Computed: 0, skipped 1 (0.3), computed 2 (0.6), 3 skipped, 4, 5 skipped, 6, and 7 the last.
    assert computed(bench, cached(flux, constant)) == 5


def test_teacache_does_not_affect_next_step(bench: Bench, flux: Path):
    before = bench.run(bench.write(drawn(flux), "plain"))
    wanted = cached(flux, {"rel_l1_thresh": 1e9})
    one = bench.run(bench.write(wanted, "cached"))
    assert not same(before, one)
    assert one.success.loaded == ()
    assert same(before, bench.run(bench.write(drawn(flux), "plain")))
    assert same(one, bench.run(bench.write(wanted, "cached")))
    assert same(one, Bench(bench.folder).run(wanted))


def test_teacache_is_separate_for_guidance_branches(bench: Bench, flux: Path):
    guided = {"negative_prompt": "a square", "true_cfg_scale": 3.0}
    wanted = cached(flux, {"rel_l1_thresh": 1e9}, **guided)
    assert computed(bench, wanted) == 4
    other = cached(flux, {"rel_l1_thresh": 0}, **guided)
    plain = pixels(bench.run(bench.write(drawn(flux, **guided), "plain")))
    assert np.array_equal(plain, pixels(bench.run(bench.write(other, "cached"))))


@pytest.mark.parametrize(
    ("teacache", "place", "message"),
    [
        (
            {"variant": "mochi"},
            ".variant",
            "A TeaCache of 'mochi' is not supported, only that of 'flux'.",
        ),
        ({"variant": "sd"}, ".variant", "There is no TeaCache 'sd', only that of 'flux'."),
        ({"rel_l1_thresh": -1}, ".rel_l1_thresh", "-1 is too small; 0 is the least."),
        ({"coefficients": [1, 2]}, ".coefficients", "Five coefficients are needed, not 2."),
        ({"treshold": 1}, ".treshold", "'treshold' is not a known key."),
    ],
)
def test_teacache_mistake_is_reported_while_planning(
    bench: Bench, flux: Path, teacache: Document, place: str, message: str
):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(cached(flux, teacache))
    (problem,) = caught.value.problems
    assert problem.place == f"steps[0].pipeline.configuration.teacache{place}"
    assert problem.message.startswith(message)


def test_teacache_excludes_another_cache(bench: Bench, flux: Path):
    wanted = cached(flux, {})
    wanted["steps"][0]["pipeline"]["configuration"]["cache"] = {"type": "first_block"}
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(wanted)
    assert caught.value.problems[0].message == "A pipeline has one of 'cache' and 'teacache'."


def test_teacache_without_flux_is_reported(bench: Bench):
    wanted = step()
    wanted["pipeline"]["configuration"]["teacache"] = {}
    ended = bench.run(document(wanted)).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == (
        "StableDiffusionPipeline has no Flux denoiser, which alone has a TeaCache."
    )
