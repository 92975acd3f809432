"""Cached step results: what is reused, and with the same image."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from app.dialect.plan import Plan
from app.protocol import (
    DropComponents,
    Loading,
    PhaseChanged,
    RunCancelled,
    StepRemembered,
    StepStarted,
)
from app.tasks.media import AudioVideo
from app.worker.device import Device
from app.worker.loading.load import find_parts
from app.worker.step_results import OBJECT_BYTES, CachedResults, StepResults
from app.worker.steps.step_output import CallOutput, StepOutput
from tests.engines import Finished, run, started_engine
from tests.worker.bench import SHAPES, Bench, Document, document, same, step
from tests.worker.encoding import counting

PICTURE_BYTES = 64 * 64 * 4 + OBJECT_BYTES
"""Size of one cached image of these tests."""


class Ran(NamedTuple):
    """A run, its reused steps, and its number of denoiser calls."""

    finished: Finished
    remembered: list[str]
    denoised: int


def ask(
    bench: Bench, request: Document | Plan, seed: int | None = 7, *, fresh: bool = False
) -> Ran:
    """Runs the document with caches allowed."""
    with counting(UNet2DConditionModel) as calls:
        finished = bench.run(request, seed, fresh=fresh)
    assert finished.success
    answered = [event.step for event in finished.events if isinstance(event, StepRemembered)]
    return Ran(finished, answered, len(calls))


def draw(name: str = "draw", **changes: Any) -> Document:
    return step(name, width=64, height=64, **changes)


def vary(name: str, of: str, **changes: Any) -> Document:
    """Returns a step that draws over another's result, or over an image."""
    image = of if of.endswith(".png") else f"previous_result:{of}"
    return step(name, kind="Img2Img", image=image, strength=0.5, **changes)


def five(last_prompt: str = "a red circle", last_model: str | Path = SHAPES) -> Document:
    names = ["one", "two", "three", "four"]
    middle = [vary(name, before) for before, name in itertools.pairwise(names)]
    return document(
        draw("one"), *middle, vary("five", "four", prompt=last_prompt, model=last_model)
    )


# --- what is not done again ----------------------------------------------------------------------


def test_edited_last_step_runs_alone(bench: Bench, tmp_path: Path):
    whole = ask(bench, five())
    edited = ask(bench, five("a blue star"))
    assert whole.remembered == []
    assert edited.remembered == ["one", "two", "three", "four"]
    assert edited.denoised == 1, "half of two denoiser steps"
    assert whole.denoised > 5
    assert same(edited.finished, Bench(other_folder(tmp_path)).run(five("a blue star")))
    started = [event.step for event in edited.finished.events if isinstance(event, StepStarted)]
    assert started == ["one", "two", "three", "four", "five"]


def other_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


def test_edited_step_loads_only_its_components(bench: Bench, model: Path):
    ask(bench, five(last_model=model))
    held = tuple(entry.key for entry in bench.runner.residency.entries)
    bench.runner.drop(DropComponents(keys=held, reason="the test wants it"))
    edited = ask(bench, five("a blue star", last_model=model)).finished
    assert {event.model for event in edited.events if isinstance(event, Loading)} == {str(model)}
    assert all(" of model " in title for title in edited.success.loaded)
    assert {e.title for e in bench.runner.residency.entries} == set(edited.success.loaded)


def test_identical_run_reuses_all_results(bench: Bench):
    first = ask(bench, document(draw())).finished
    bench.runner.drop(
        DropComponents(keys=tuple(e.key for e in bench.runner.residency.entries), reason="test")
    )
    again = ask(bench, document(draw()))
    assert (again.remembered, again.denoised) == (["draw"], 0)
    assert again.finished.success.loaded == ()
    assert bench.runner.residency.entries == ()
    assert first.success.made_at is None
    (remembered,) = [e for e in again.finished.events if isinstance(e, StepRemembered)]
    assert again.finished.success.made_at == remembered.made_at
    assert remembered.made_by == first.run_id
    assert remembered.made_at <= first.success.time
    assert same(first, again.finished)


def test_reused_results_are_written_with_their_origin(bench: Bench):
    first = ask(bench, document(draw())).finished
    again = ask(bench, document(draw())).finished
    (one,), (other,) = first.results, again.results
    assert Path(other.path).parent.name == again.run_id != Path(one.path).parent.name
    records = [json.loads(Path(result.sidecar).read_text()) for result in (one, other)]
    assert records[0]["remembered_from"] is None
    assert records[1]["remembered_from"]["run_id"] == first.run_id
    made = time.strptime(records[1]["remembered_from"]["created"], "%Y-%m-%dT%H:%M:%S%z")
    assert abs(time.mktime(made) - first.success.time) < 2
    assert records[1]["run_id"] == again.run_id


def test_step_name_and_format_do_not_change_the_key(bench: Bench):
    first = ask(bench, document(draw())).finished
    renamed = ask(bench, document(draw("sketch", saved_as="image/webp")))
    assert renamed.remembered == ["sketch"]
    assert renamed.finished.results[0].path.endswith(".webp")
    assert first.results[0].path.endswith(".png")


def test_unneeded_step_is_skipped(tmp_path: Path):
    """There is room for one image only: that of the last step."""
    bench = Bench(tmp_path, step_memo_bytes=PICTURE_BYTES)
    hidden = draw("hidden")
    hidden["result"]["save"] = False
    chain = document(hidden, vary("shown", "hidden"))
    first, again = ask(bench, chain), ask(bench, chain)
    assert (again.remembered, again.denoised) == (["shown"], 0)
    assert again.finished.success.made_at is not None
    assert same(first.finished, again.finished)


def test_results_before_a_cancel_are_reused(bench: Bench):
    chain = document(draw("one"), vary("two", "one"))

    def cancel_in_two(event: Any) -> None:
        if isinstance(event, PhaseChanged) and (event.step, event.phase) == ("two", "denoising"):
            bench.cancel(event.run_id)

    bench.when = cancel_in_two
    assert isinstance(bench.run(chain, fresh=False).terminal, RunCancelled)
    bench.when = lambda _event: None
    assert ask(bench, chain).remembered == ["one"]


def test_several_images_are_reused_in_order(bench: Bench):
    three = document(draw(num_images_per_prompt=3))
    first, again = ask(bench, three), ask(bench, three)
    assert again.remembered == ["draw"]
    assert same(first.finished, again.finished)


def test_latents_between_steps_are_cached(bench: Bench, tmp_path: Path):
    latents = draw("latents", output_type="{latent}")
    del latents["result"]
    chains = [
        document(latents, vary("picture", "latents", prompt=p)) for p in ("a star", "a heart")
    ]
    ask(bench, chains[0])
    second = ask(bench, chains[1])
    assert second.remembered == ["latents"]
    assert same(second.finished, Bench(other_folder(tmp_path)).run(chains[1]))


# --- what is another request ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "a red circle "},
        {"num_inference_steps": 3},
        {"blocks": {"scheduler": {"configuration": {"scheduler_type": "DDIMScheduler"}}}},
        {"loading": {"dtype": "torch.bfloat16"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_changed_step_runs(bench: Bench, changed: dict[str, Any]):
    ask(bench, document(draw()))
    assert ask(bench, document(draw(**changed))).remembered == []


def test_step_with_another_seed_and_its_dependents_run(bench: Bench):
    chain = document(draw("one"), vary("two", "one"))
    ask(bench, chain, seed=7)
    assert ask(bench, chain, seed=8).remembered == []
    own = document({**draw("one"), "seed": 3}, vary("two", "one"))
    ask(bench, own, seed=7)
    assert ask(bench, own, seed=8).remembered == ["one"]


def test_image_is_identified_by_content(bench: Bench, tmp_path: Path):
    picture = Image.new("RGB", (64, 64), "red")
    picture.save(tmp_path / "input.png")
    picture.save(tmp_path / "copy.png")
    ask(bench, document(vary("over", "input.png")))
    assert ask(bench, document(vary("over", "copy.png"))).remembered == ["over"]
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "input.png")
    assert ask(bench, document(vary("over", "input.png"))).remembered == []


def outlined(scale: float, folder: Path) -> Document:
    loras = [{"model_name": str(folder), "scale": scale}]
    return document(draw(blocks={"loras": loras}))


def test_lora_scale_and_file_change_the_key(bench: Bench, tmp_path: Path):
    folder = tmp_path / "lora"
    folder.mkdir()
    weights = next((Path(SHAPES) / "outline").glob("*.safetensors")).read_bytes()
    (folder / "outline.safetensors").write_bytes(weights)
    ask(bench, document(draw()))
    for scale in (1.0, 0.5):
        assert ask(bench, outlined(scale, folder)).remembered == []
        assert ask(bench, outlined(scale, folder)).remembered == ["draw"]
    (folder / "outline.safetensors").unlink()
    (folder / "outline.safetensors").write_bytes(weights)
    assert ask(bench, outlined(1.0, folder)).remembered == []


def test_changed_model_files_change_the_key(bench: Bench, model: Path):
    ask(bench, document(draw(model=model)))
    config = model / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert ask(bench, document(draw(model=model))).remembered == []


# --- what is never answered ----------------------------------------------------------------------


def test_step_with_drawn_seed_and_its_dependents_are_not_cached(bench: Bench):
    fixed = {**vary("two", "one"), "seed": 3}
    alone = {**draw("alone"), "seed": 3}
    chain = document(draw("one"), fixed, alone)
    plan = bench.plan(chain, seed=None)
    assert [drawn.seed_drawn for drawn in plan.steps] == [True, False, False]
    for _ in range(2):
        ask(bench, chain, seed=None)
    assert ask(bench, chain, seed=None).remembered == ["alone"]
    assert ask(bench, plan).remembered == ["alone"], "nor the very same seed, drawn again"


def test_step_without_generator_is_not_cached(bench: Bench):
    loose = draw()
    loose["pipeline"]["configuration"]["no_generator"] = True
    assert [ask(bench, document(loose)).remembered for _ in range(2)] == [[], []]


def test_fresh_run_computes_and_replaces_cached_results(bench: Bench):
    first = ask(bench, document(draw()))
    fresh = ask(bench, document(draw()), fresh=True)
    assert (fresh.remembered, fresh.denoised) == ([], first.denoised)
    answered = ask(bench, document(draw())).finished
    (remembered,) = [e for e in answered.events if isinstance(e, StepRemembered)]
    assert remembered.made_by == fresh.finished.run_id


def test_free_clears_step_results(bench: Bench):
    ask(bench, document(draw()))
    bench.free()
    assert ask(bench, document(draw())).remembered == []


def test_step_results_evict_oldest_over_limit(tmp_path: Path):
    bench = Bench(tmp_path, step_memo_bytes=2 * PICTURE_BYTES)
    for prompt in ("a star", "a heart", "a cross"):
        ask(bench, document(draw(prompt=prompt)))
    assert ask(bench, document(draw(prompt="a heart"))).remembered == ["draw"]
    assert ask(bench, document(draw(prompt="a star"))).remembered == []


def test_step_results_with_zero_limit_cache_nothing(tmp_path: Path):
    bench = Bench(tmp_path, step_memo_bytes=0)
    assert [ask(bench, document(draw())).remembered for _ in range(2)] == [[], []]


def test_reused_request_keeps_its_original_time(tmp_path: Path):
    """Its files are gone, so the engine cannot answer; then it answers with the new ones."""
    workflow = Bench(tmp_path).write(document(draw()))
    with started_engine(tmp_path) as engine:
        first = run(engine, workflow, fresh=False)
        Path(first.results[0].path).unlink()
        second, third = (run(engine, workflow, fresh=False) for _ in range(2))
    assert second.success.made_at is not None
    assert second.success.made_at <= first.success.time
    assert second.results[0].path != first.results[0].path
    assert third.success.made_at == second.success.made_at
    assert third.results[0].path == second.results[0].path


# --- what is remembered cannot be changed --------------------------------------------------------


class Memory:
    """Results of one step, cached and looked up as by the runner."""

    def __init__(self, bench: Bench) -> None:
        self._plan = bench.plan(document(draw()))
        self._parts = {step.name: find_parts(step) for step in self._plan.steps}
        self._results = StepResults(1_000_000)

    def look_up(self) -> CachedResults:
        return self._results.look_up(self._plan, self._parts, Device("cpu"), fresh=False)

    def keep(self, *artifacts: Any) -> None:
        key = self.look_up().keys["draw"]
        self._results.keep(key, StepOutput(artifacts), "20260101-000000-000000")

    @property
    def artifacts(self) -> list[Any]:
        return self.look_up().results["draw"].made.returned


@pytest.mark.parametrize(
    "artifact",
    [
        Image.new("RGB", (4, 4)),
        np.zeros((2, 4, 4, 3), dtype=np.float32),
        torch.zeros(3, 4, 4),
        [Image.new("L", (4, 4)), Image.new("L", (4, 4))],
        {"mask": Image.new("L", (4, 4)), "size": (4, 4), "name": "all"},
        CallOutput({"images": [Image.new("L", (4, 4))]}),
        AudioVideo(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((8, 1), np.float32), 8000),
    ],
    ids=["picture", "array", "tensor", "frames", "mapping", "output", "film with sound"],
)
def test_cached_results_are_private_copies(bench: Bench, artifact: Any):
    memory = Memory(bench)
    memory.keep(artifact)
    paint(artifact)
    for _ in range(2):
        (handed,) = memory.artifacts
        assert type(handed) is type(artifact)
        assert all(not np.asarray(numbers).any() for numbers in numbers_in(handed))
        paint(handed)


def numbers_in(artifact: Any) -> Iterator[Any]:
    """Returns all images, arrays and tensors in it."""
    match artifact:
        case list():
            yield from (numbers for item in artifact for numbers in numbers_in(item))
        case Mapping():
            yield from numbers_in(list(artifact.values()))
        case AudioVideo():
            yield from (artifact.frames, artifact.audio)
        case Image.Image() | np.ndarray() | torch.Tensor():
            yield artifact


def paint(artifact: Any) -> None:
    """Changes it in place."""
    for numbers in numbers_in(artifact):
        if isinstance(numbers, Image.Image):
            numbers.paste("white", (0, 0, 4, 4))
        else:
            numbers[:] = 1


def test_unknown_artifacts_are_not_cached(bench: Bench):
    memory = Memory(bench)
    memory.keep(Image.new("RGB", (4, 4)), {"a": object()})
    assert memory.look_up().results == {}
