"""Calls of a pipeline step: one per combination of the results it refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.protocol import PhaseChanged, RunFailed, StepProgress, StepStarted
from tests.worker.bench import Bench, Document, document, pixels, same, step

SMALL = {"width": 64, "height": 64}


def sketches(count: int, name: str = "sketch", **changes: Any) -> Document:
    """Returns a step that draws so many different images."""
    return step(name, num_images_per_prompt=count, **{**SMALL, **changes})


def unsaved(drawing: Document) -> Document:
    return {**drawing, "result": {**drawing["result"], "save": False}}


def size_of(drawing: str) -> Document:
    """Returns a step that reports the size of those images; named `size of …`."""
    arguments = {"image": f"previous_result:{drawing}"}
    task = {"command": "get_image_size", "arguments": arguments}
    return {"name": f"size of {drawing}", "task": task}


def vary(image: Any = "previous_result:sketch", **arguments: Any) -> Document:
    return step("vary", kind="Img2Img", image=image, strength=0.5, **arguments)


# --- how often a step runs -----------------------------------------------------------------------


def test_step_runs_once_per_referenced_result(bench: Bench):
    finished = bench.run(document(sketches(3), vary()))
    varied = [result for result in finished.results if result.step == "vary"]
    assert finished.success
    assert [result.index for result in varied] == [0, 1, 2]
    pictures = pixels(finished)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) == 6


def test_step_combines_two_references_last_fastest(bench: Bench, tmp_path: Path):
    """The width of each image tells which result it comes from."""
    widths, heights = sketches(1, "wide", width=64), sketches(1, "high", height=72)
    finished = bench.run(
        document(
            unsaved(sketches(2, "first", width=64, height=64)),
            unsaved(widths),
            unsaved(heights),
            size_of("wide"),
            size_of("high"),
            step(
                "fill",
                kind="Inpaint",
                image="previous_result:first",
                mask_image="previous_result:first",
                width="previous_result:size of wide.width",
                height="previous_result:size of high.height",
                strength=1.0,
            ),
        )
    )
    assert finished.success
    assert [(r.width, r.height, r.index) for r in finished.results] == [
        (64, 72, index) for index in range(4)
    ]


def test_step_changes_first_reference_slowest(bench: Bench, tmp_path: Path):
    """Of red and blue: red red, red blue, blue red, blue blue."""
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
    hardly = {"prompt": ["a square"] * 2, "strength": 0.05, "num_inference_steps": 20}
    start = step("start", kind="Img2Img", image=["red.png", "blue.png"], **hardly)
    pairs = step("pairs", kind="Img2Img", image=["previous_result:start"] * 2, **hardly)
    finished = bench.run(document(unsaved(start), pairs))
    reds_and_blues = [picture.mean(axis=(0, 1))[[0, 2]] for picture in pixels(finished)]
    seen = ["red" if red > blue else "blue" for red, blue in reds_and_blues]
    assert seen == ["red", "red", "red", "blue", "blue", "red", "blue", "blue"]


def test_too_many_combinations_are_refused_before_first_call(bench: Bench):
    # The number of images is known only when the first step has run.
    two = {"name": "two", "task": {"command": "gather_inputs", "inputs": [{"count": 2}]}}
    drawn = step("sketch", **SMALL, num_images_per_prompt="previous_result:two.count")
    finished = bench.run(document(two, drawn, vary(["previous_result:sketch"] * 14)))
    assert isinstance(finished.terminal, RunFailed)
    assert finished.terminal.error.message == "Step 'vary' would run 16384 times; 10000 at most."
    started = [event.step for event in finished.events if isinstance(event, StepStarted)]
    assert started == ["two", "sketch", "vary"]
    assert {e.step for e in finished.events if isinstance(e, StepProgress)} == {"sketch"}


def test_unknown_result_property_is_named(bench: Bench):
    values = {"name": "made", "task": {"command": "gather_inputs", "inputs": [{"width": 64}]}}
    finished = bench.run(document(values, step("next", width="previous_result:made.widht")))
    assert isinstance(finished.terminal, RunFailed)
    error = finished.terminal.error
    assert error.message == "A result of step 'made' has no 'widht', which 'next' refers to."
    assert error.hint == "Did you mean 'width'?"


def test_result_property_is_taken_whole(bench: Bench):
    """Not image by image: one reference to it is one call."""
    both = vary("previous_result:sketch.images", prompt=["a circle", "a star"])
    finished = bench.run(document(unsaved(sketches(2)), both))
    assert len(pixels(finished)) == 2
    names = [Path(result.path).name for result in finished.results]
    assert names == ["test-vary.1-0.0.png", "test-vary.1-0.1.png"]


# --- what a step is given ------------------------------------------------------------------------


def test_unsaved_result_is_available_to_next_step(bench: Bench):
    kept = bench.run(document(sketches(1), vary()))
    dropped = bench.run(document(unsaved(sketches(1)), vary()))
    assert [result.step for result in dropped.results] == ["vary"]
    assert dropped.results[0].final
    assert np.array_equal(pixels(dropped)[0], pixels(kept)[1])


def test_image_is_rotated_by_exif_and_rgb(bench: Bench, tmp_path: Path):
    turned = Image.new("RGBA", (64, 128), (200, 30, 30, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    (result,) = bench.run(document(vary("turned.png"))).results
    assert (result.width, result.height) == (128, 64)


def test_sixteen_bit_image_keeps_its_greys(bench: Bench, tmp_path: Path):
    """As depth is saved here; Pillow's own conversion would make nearly all of it white."""
    ramp = np.arange(65536).reshape(256, 256)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 257).round().astype(np.uint8)).save(tmp_path / "flat.png")
    deep, flat = (bench.run(document(vary(name))) for name in ("deep.png", "flat.png"))
    assert same(deep, flat)


def test_calls_of_a_step_share_one_generator(bench: Bench, tmp_path: Path):
    """Defined by the dialect: equal calls of one step draw different images."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    twice = step("twice", width="previous_result:size of sketch.width", height=64)
    steps = unsaved(sketches(2)), size_of("sketch"), twice
    first, second = pixels(bench.run(document(*steps)))
    assert not np.array_equal(first, second)


def test_step_seed_overrides_run_seed(bench: Bench):
    fixed = step()
    fixed["pipeline"]["seed"] = 5
    one, other = (bench.run(document(fixed), seed=seed) for seed in (1, 2))
    assert same(one, other)
    assert one.results[0].seed == 5
    assert not same(bench.run(document(), seed=1), bench.run(document(), seed=2))


def test_seed_is_ignored_without_generator(bench: Bench):
    free = step()
    free["pipeline"]["configuration"]["no_generator"] = True
    assert not same(bench.run(document(free), seed=1), bench.run(document(free), seed=1))


# --- what a step tells ---------------------------------------------------------------------------


def test_call_reports_phases_and_denoising_steps_in_order(bench: Bench):
    finished = bench.run(document(step(num_inference_steps=3)))
    phases = [event.phase for event in finished.events if isinstance(event, PhaseChanged)]
    assert phases == ["loading", "encoding", "denoising", "decoding", "saving"]
    steps = [event for event in finished.events if isinstance(event, StepProgress)]
    assert [(event.done, event.total) for event in steps] == [(1, 3), (2, 3), (3, 3)]
    first, second, last = (event.seconds_left for event in steps)
    assert first is None, "what came before the first step says nothing about the pace"
    assert second is not None
    assert second > last == 0


def test_progress_total_counts_actual_steps(bench: Bench, tmp_path: Path):
    """At half strength only half of the steps are made."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    finished = bench.run(document(vary("red.png", num_inference_steps=8)))
    steps = [event for event in finished.events if isinstance(event, StepProgress)]
    assert [(event.done, event.total) for event in steps] == [(n, 4) for n in (1, 2, 3, 4)]


def test_workflow_steps_are_announced_with_their_number(bench: Bench):
    finished = bench.run(document(sketches(1), vary()))
    started = [event for event in finished.events if isinstance(event, StepStarted)]
    assert [(e.step, e.index, e.count) for e in started] == [("sketch", 0, 2), ("vary", 1, 2)]


@pytest.mark.parametrize("count", [1, 3])
def test_timings_are_reported_by_activity(bench: Bench, count: int):
    timings = bench.run(document(sketches(count))).success.timings
    assert timings.load_s > 0
    assert timings.compute_s > 0
    assert timings.save_s > 0
    assert timings.load_s + timings.compute_s + timings.save_s <= timings.total_s
