"""A step that runs out of memory is retried once; the error is torch's own."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.protocol import (
    Event,
    Loading,
    MemoryRanOut,
    PhaseChanged,
    PinComponent,
    ResultSaved,
    RunCancelled,
    RunFailed,
    StepProgress,
)
from tests.doubles.accelerator import Accelerator
from tests.engines import Finished
from tests.worker.bench import SHAPES, Bench, Document, document, same, step

LARGE = {"width": 256, "height": 256}
"""Several tiles, so that tiling changes the image."""
PLAIN = document(step(**LARGE), id="plain")
MODE = "VAE tiling and VAE slicing"


def decoding(event: Event) -> bool:
    return isinstance(event, PhaseChanged) and event.phase == "decoding"


class RunningOut:
    """Makes memory run out at events of a kind, so many times."""

    def __init__(self, bench: Bench, when: Callable[[Event], bool], times: int = 1) -> None:
        self._when = when
        self.left = times
        bench.when = self

    def __call__(self, event: Event) -> None:
        if self.left and self._when(event):
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def told(finished: Finished) -> list[MemoryRanOut]:
    return [event for event in finished.events if isinstance(event, MemoryRanOut)]


def failed(finished: Finished) -> RunFailed:
    assert isinstance(finished.terminal, RunFailed)
    return finished.terminal


def held(bench: Bench) -> set[str]:
    """Returns models whose weights are held."""
    entries = (entry for entry in bench.runner.residency.entries if entry.weight_bytes)
    return {entry.title.split(" of ")[1].split(" ")[0] for entry in entries}


@pytest.fixture
def two_models(bench: Bench) -> Bench:
    """A bench that holds the models `a` and `b`."""
    for name in ("a", "b"):
        shutil.copytree(SHAPES, bench.folder / name)
        bench.run(bench.write(document(step(model=name), id=name), name))
    return bench


def test_retry_runs_step_in_leaner_mode(bench: Bench):
    tiled = step(**LARGE)
    tiled["pipeline"]["configuration"]["vae"] = {"enable_tiling": True, "enable_slicing": True}
    ordinary, lean = bench.run(PLAIN), bench.run(document(tiled, id="tiled"))
    RunningOut(bench, decoding)
    recovered = bench.run(PLAIN)
    assert same(recovered, lean)
    assert recovered.success.loaded == ()
    assert same(bench.run(PLAIN), ordinary)


def test_retry_is_reported_and_recorded(bench: Bench):
    RunningOut(bench, decoding)
    recovered = bench.run(PLAIN)
    (event,) = told(recovered)
    assert (event.step, event.phase) == ("draw", "decoding")
    assert event.sentence == f"Memory ran out in step 'draw' (decoding). Run again with {MODE}."
    assert recovered.success.out_of_memory == (event.sentence,)
    (result,) = recovered.results
    assert json.loads(Path(result.sidecar).read_text())["out_of_memory"] == [event.sentence]
    ordinary = bench.run(PLAIN)
    assert ordinary.success.out_of_memory == ()
    assert json.loads(Path(ordinary.results[0].sidecar).read_text())["out_of_memory"] == []


def test_retry_frees_objects_of_failed_try(bench: Bench):
    alive: list[weakref.ref[Any]] = []
    left: list[bool] = []
    run_out = RunningOut(bench, decoding)

    def look(event: Event) -> None:
        if isinstance(event, MemoryRanOut):
            left.append(any(reference() is not None for reference in alive))
        elif run_out.left and decoding(event):
            frame = sys._getframe()
            while frame is not None:
                values = (frame.f_locals.get(name) for name in ("pipeline", "latents"))
                alive.extend(weakref.ref(value) for value in values if value is not None)
                frame = frame.f_back
        run_out(event)

    bench.when = look
    gc.disable()
    try:
        assert bench.run(PLAIN).success
    finally:
        gc.enable()
    assert len(alive) >= 2
    assert left == [False]


def test_retry_evicts_idle_but_not_pinned_or_needed(two_models: Bench):
    two_models.run(PLAIN)
    for entry in two_models.runner.residency.entries:
        if " of a " in entry.title:
            two_models.runner.pin(PinComponent(key=entry.key, pinned=True))
    RunningOut(two_models, decoding)
    (event,) = told(two_models.run(PLAIN))
    assert held(two_models) == {"a", "shapes"}
    assert event.done[0].startswith("Idle components were evicted (22 MB): ")
    assert "unet of b (float32)" in event.done[0]
    assert event.done[1] == f"Run again with {MODE}."


def test_retry_fails_with_numbers_the_second_time(bench: Bench):
    ordinary = bench.run(PLAIN)
    RunningOut(bench, decoding, times=2)
    finished = bench.run(PLAIN)
    error = failed(finished).error
    assert len(told(finished)) == 1
    assert error.kind == "OutOfMemory"
    assert error.message.startswith(
        f"Memory ran out in step 'draw' (decoding), also with {MODE}: 20.00 GiB more were refused, "
    )
    assert error.message.endswith("22 MB of models are held, the step's own weigh 22 MB.")
    assert "smaller picture" in error.hint
    assert "Traceback" in error.detail
    after = bench.run(PLAIN)
    assert after.success.loaded == ()
    assert same(ordinary, after)


def test_retry_is_skipped_without_remedy(bench: Bench):
    tiled = step()
    tiled["pipeline"]["configuration"]["vae"] = {"enable_tiling": True, "enable_slicing": True}
    RunningOut(bench, decoding)
    finished = bench.run(document(tiled))
    assert told(finished) == []
    assert failed(finished).error.message.startswith("Memory ran out in step 'draw' (decoding): ")


def test_retry_repeats_load_after_evicting_idle(two_models: Bench):
    def loading_the_unet(event: Event) -> bool:
        return isinstance(event, Loading) and event.component == "unet"

    RunningOut(two_models, loading_the_unet)
    recovered = two_models.run(PLAIN)
    (event,) = told(recovered)
    assert event.phase == "loading"
    assert event.done[-1] == "Run again."
    assert held(two_models) == {"shapes"}
    undisturbed = Bench(two_models.folder).run(PLAIN)
    assert set(recovered.success.loaded) == set(undisturbed.success.loaded)
    assert same(recovered, undisturbed)


def test_retry_counts_load_and_call_separately(two_models: Bench):
    moments = [
        lambda event: isinstance(event, Loading) and event.component == "unet",
        decoding,
    ]
    RunningOut(two_models, lambda event: moments[0](event) and bool(moments.pop(0)), times=2)
    recovered = two_models.run(PLAIN)
    assert [event.phase for event in told(recovered)] == ["loading", "decoding"]
    assert len(recovered.success.out_of_memory) == 2


def test_cancel_before_retry_ends_run(bench: Bench):
    run_out = RunningOut(bench, decoding)

    def cancel(event: Event) -> None:
        if isinstance(event, MemoryRanOut):
            bench.cancel(event.run_id)
        run_out(event)

    bench.when = cancel
    finished = bench.run(PLAIN)
    assert isinstance(finished.terminal, RunCancelled)
    assert sum(isinstance(event, StepProgress) for event in finished.events) == 2


def test_cancel_during_retry_ends_run(bench: Bench):
    ordinary = bench.run(PLAIN)
    run_out = RunningOut(bench, decoding)

    def cancel(event: Event) -> None:
        if decoding(event) and not run_out.left:
            bench.cancel(event.run_id)
        run_out(event)

    bench.when = cancel
    finished = bench.run(PLAIN)
    assert isinstance(finished.terminal, RunCancelled)
    assert finished.terminal.phase == "decoding"
    bench.when = lambda _event: None
    assert same(ordinary, bench.run(PLAIN))


def varied() -> Document:
    """Returns a document with two images, and a step that is called once for each."""
    vary = step("vary", kind="Img2Img", image="previous_result:draw", strength=1.0)
    return document(step(num_images_per_prompt=2), vary, id="varied")


def test_retry_of_several_calls_starts_again_without_duplicates(bench: Bench):
    ordinary = bench.run(varied())
    decodes = 0

    def second_call(event: Event) -> bool:
        nonlocal decodes
        decodes += decoding(event) and event.step == "vary"
        return decodes == 2

    RunningOut(bench, second_call)
    recovered = bench.run(varied())
    (event,) = told(recovered)
    assert event.step == "vary"
    assert [r.step for r in recovered.results] == ["draw", "draw", "vary", "vary"]
    # No larger than one tile, so the leaner mode draws the same.
    assert same(ordinary, recovered)


def test_retry_does_not_write_results_twice(bench: Bench):
    RunningOut(bench, lambda event: isinstance(event, ResultSaved))
    finished = bench.run(document(step(num_images_per_prompt=2)))
    assert failed(finished).error.message.startswith("Memory ran out in step 'draw' (saving): ")
    assert len(finished.results) == 1
    assert len(list((bench.folder / "outputs" / finished.run_id).glob("*.png"))) == 1


def test_out_of_memory_before_first_module_counts_as_loading(bench: Bench):
    two = document(step("one"), step("two"), id="two")
    bench.run(two)
    finished = bench.run(two)
    phases = [
        (event.step, event.phase) for event in finished.events if isinstance(event, PhaseChanged)
    ]
    assert phases.count(("two", "loading")) == 1
    assert phases.index(("two", "loading")) == phases.index(("one", "saving")) + 1


# --- beside an accelerator -----------------------------------------------------------------------


def test_retry_on_accelerator_offloads_to_ram(
    tmp_path: Path,
):
    bench = Bench(tmp_path, Accelerator())
    ordinary = bench.run(PLAIN)
    places: list[set[str]] = []
    run_out = RunningOut(bench, decoding)

    def look(event: Event) -> None:
        if decoding(event):
            entries = bench.runner.residency.entries
            places.append({entry.place for entry in entries if entry.weight_bytes})
        run_out(event)

    bench.when = look
    (event,) = told(bench.run(PLAIN))
    assert event.done == (f"Run again with model offload, {MODE}.",)
    assert same(ordinary, bench.run(PLAIN))
    assert places == [{"device"}, {"ram"}, {"device"}]


def test_retry_does_not_offload_if_ram_ran_out(tmp_path: Path):
    bench = Bench(tmp_path, Accelerator())

    def run_out(event: Event) -> None:
        if decoding(event):
            raise MemoryError

    bench.when = run_out
    finished = bench.run(PLAIN)
    assert told(finished) == []
    assert failed(finished).error.kind == "OutOfMemory"
