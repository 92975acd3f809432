"""Task steps: alone, and before and after pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidWorkflow
from app.protocol import Event, PhaseChanged, RunCancelled, RunFailed, StepProgress, StepRemembered
from tests.engines import Finished
from tests.worker.bench import Bench, Document, document, pixels, same, step

SMALL = {"width": 64, "height": 64}
JSON = {"result": {"content_type": "application/json"}}


def doing(
    command: str, name: str = "do", saved_as: str | None = "image/png", **arguments: Any
) -> Document:
    """Returns a step with a task."""
    result = {"result": {"content_type": saved_as}} if saved_as else {}
    return {"name": name, "task": {"command": command, "arguments": arguments}, **result}


def listing(*inputs: Any, name: str = "list") -> Document:
    """Returns a step that gives each of these values."""
    return {"name": name, "task": {"command": "gather_inputs", "inputs": list(inputs)}}


def sketches(count: int) -> Document:
    return step("sketch", num_images_per_prompt=count, **SMALL)


def pictures(folder: Path, *colours: str) -> None:
    for colour in colours:
        Image.new("RGB", (8, 4), colour).save(folder / f"{colour}.png")


def failed(finished: Finished) -> str:
    """Returns message and hint of a failed run's error."""
    assert isinstance(finished.terminal, RunFailed), finished.terminal
    error = finished.terminal.error
    return f"{error.message} {error.hint}".strip()


# --- with pipelines ------------------------------------------------------------------------------


def test_task_runs_once_per_pipeline_image(bench: Bench):
    scale = doing("resize_rescale", image="previous_result:sketch", width=32, height=16)
    finished = bench.run(document(sketches(3), scale))
    drawn, scaled = pixels(finished)[:3], pixels(finished)[3:]
    assert [picture.shape for picture in scaled] == [(16, 32, 3)] * 3
    for before, after in zip(drawn, scaled, strict=True):
        assert np.array_equal(after, np.asarray(Image.fromarray(before).resize((32, 16))))
    assert [(result.step, result.index, result.final) for result in finished.results[3:]] == [
        ("do", index, True) for index in range(3)
    ]
    progress = [event for event in finished.events if isinstance(event, StepProgress)]
    assert [(p.done, p.total) for p in progress if p.step == "do"] == [(1, 3), (2, 3), (3, 3)]


def test_pipeline_uses_task_result(bench: Bench):
    grown = doing("add_border_and_mask", "grow", None, image="previous_result:sketch", zoom_all=2.0)
    filled = step(
        "fill",
        kind="Inpaint",
        image="previous_result:grow.bordered_image",
        mask_image="previous_result:grow.mask",
        width="previous_result:size.width",
        height="previous_result:size",
        strength=1.0,
    )
    size = doing("get_image_size", "size", None, image="previous_result:grow.mask")
    finished = bench.run(document(sketches(1), grown, size, filled))
    assert finished.success
    # Both parts of the border refer to it: two references, so every pair of images.
    assert [(result.width, result.height) for result in finished.results] == [(64, 64), (128, 128)]


def test_prompt_list_draws_one_image_each(bench: Bench):
    prompts = ["a red circle", "a blue square"]
    from_list = step(prompt="previous_result:list", **SMALL)
    finished = bench.run(document(listing(*prompts), from_list))
    alone = bench.run(document(step(prompt=prompts[0], **SMALL)))
    assert len(finished.results) == 2
    assert np.array_equal(pixels(finished)[0], pixels(alone)[0])
    assert not np.array_equal(*pixels(finished))


def test_tasks_keep_pipeline_components_warm(bench: Bench):
    drawing = document(sketches(1), doing("crop_square", image="previous_result:sketch"))
    first, second = bench.run(drawing), bench.run(drawing)
    assert first.success.loaded
    assert second.success.loaded == ()
    assert same(first, second)


# --- alone ---------------------------------------------------------------------------------------


def test_tasks_alone_need_no_model(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red", "blue")
    finished = bench.run(
        document(
            doing("gather_images", "files", None, glob="*.png"),
            doing("crop_square", image="previous_result:files"),
        )
    )
    assert [picture[0, 0].tolist() for picture in pixels(finished)] == [[0, 0, 255], [255, 0, 0]]
    assert finished.success.loaded == ()
    phases = [event.phase for event in finished.events if isinstance(event, PhaseChanged)]
    assert phases == ["loading", "computing", "computing", "saving"]


def test_task_combines_two_references_last_fastest(bench: Bench):
    pairs = doing(
        "gather_inputs", "pair", "application/json", a="previous_result:x", b="previous_result:y"
    )
    finished = bench.run(document(listing(1, 2, name="x"), listing(3, 4, name="y"), pairs))
    found = [json.loads(Path(result.path).read_text()) for result in finished.results]
    assert found == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4)]


def test_task_takes_mapping_entry_of_argument_name(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red")
    sizes = listing({"width": 3, "height": 4, "other": 5}, name="sizes")
    taken = dict.fromkeys(("height", "depth"), "previous_result:sizes")
    both = doing("gather_inputs", **taken, saved_as="application/json")
    scaled = doing("resize_rescale", "scale", image="red.png", width="previous_result:sizes",
                   height="previous_result:sizes.height")  # fmt: skip
    data, picture = bench.run(document(sizes, both, scaled)).results
    assert json.loads(data.text) == {"height": 4, "depth": {"width": 3, "height": 4, "other": 5}}
    assert (picture.width, picture.height) == (3, 4)


def test_image_mapping_is_saved_as_one_file_per_entry(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red")
    finished = bench.run(document(doing("add_border_and_mask", image="red.png", zoom_all=8.0)))
    names = [Path(result.path).name for result in finished.results]
    assert names == ["test-do.0-0.0-bordered_image.png", "test-do.0-0.0-mask.png"]
    assert [(result.width, result.height) for result in finished.results] == [(64, 32)] * 2
    assert all(Path(result.sidecar).is_file() for result in finished.results)


def test_random_task_depends_on_seed(bench: Bench, tmp_path: Path):
    Image.effect_noise((128, 128), 90).convert("RGB").save(tmp_path / "noise.png")
    small = {"f": 64, "detect_resolution": 128, "image_resolution": 128}
    shuffled = document(doing("shuffle", image="noise.png", **small))
    one, again, other = (bench.run(shuffled, seed=seed) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)


def remembered(finished: Finished) -> list[str]:
    """Returns the steps that reused a cached result."""
    return [event.step for event in finished.events if isinstance(event, StepRemembered)]


def test_identical_task_is_reused(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red")
    small, large = (doing("resize_rescale", image="red.png", width=width) for width in (8, 9))
    first = bench.run(document(small), fresh=False)
    again = bench.run(document({**small, "name": "other"}), seed=8, fresh=False)
    assert (remembered(first), remembered(again)) == ([], ["other"])
    assert same(first, again)
    assert remembered(bench.run(document(large), fresh=False)) == []


def test_only_random_tasks_depend_on_seed(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red")
    shuffled = document(doing("shuffle", image="red.png", detect_resolution=64))
    cut = document(doing("crop_square", image="red.png"))
    for drawing, answered in ((shuffled, []), (cut, ["do"])):
        bench.run(drawing, seed=1, fresh=False)
        assert remembered(bench.run(drawing, seed=2, fresh=False)) == answered
        assert remembered(bench.run(drawing, seed=None, fresh=False)) == answered
    assert remembered(bench.run(shuffled, seed=2, fresh=False)) == ["do"]


# --- texts, data, sounds -------------------------------------------------------------------------


TEXT = 'a: "ü"\n\nb: 2'


def test_text_is_saved_with_its_record(bench: Bench):
    sections = doing("extract_sections", saved_as="text/plain", text=TEXT, sections=["a"])
    (saved,) = bench.run(document(sections)).results
    assert Path(saved.path).name == "test-do.0-0.0.txt"
    assert Path(saved.path).read_text() == saved.text == 'a: "ü"'
    record = json.loads(Path(saved.sidecar).read_text())
    assert (record["step"], record["seed"]) == ("do", 7)
    assert (saved.width, saved.height, saved.is_visual) == (None, None, False)


def test_data_is_saved_as_json(bench: Bench):
    (saved,) = bench.run(document(listing({"a": [1, None, "ü"]}) | JSON)).results
    assert json.loads(Path(saved.path).read_text()) == {"a": [1, None, "ü"]}


def test_unsaved_data_is_reported_at_the_end(bench: Bench):
    assert bench.run(document(listing({"a": 1}, "b", 3))).success.outputs == ({"a": 1}, "b", 3)
    assert bench.run(document(listing("b") | JSON)).success.outputs == ()
    assert bench.run(document({**sketches(1), "result": None})).success.outputs == ()


def test_missing_dict_key_gives_no_file(bench: Bench):
    taken = doing("get_dict_value", saved_as="application/json", dict={"a": 1}, key="b")
    finished = bench.run(document(taken))
    assert (finished.success.outputs, finished.results) == ((), ())


def test_quotation_marks_around_text_are_removed(bench: Bench):
    said = [' "a fox" ', "'a fox'", 'a "fox"', '"']
    assert bench.run(document(listing(*said))).success.outputs == ("a fox", "a fox", 'a "fox"', '"')


def test_image_list_is_saved_as_one_video(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red", "blue")
    red, blue = ({"media_type": "image", "location": f"{colour}.png"} for colour in ("red", "blue"))
    joined = doing("concat_videos", saved_as="video/mp4", videos=[[red, red, blue], [blue, red]])
    (saved,) = bench.run(document(joined)).results
    assert (saved.width, saved.height, saved.is_visual) == (8, 4, True)
    with av.open(saved.path) as container:
        shades = [frame.to_ndarray(format="rgb24")[1, 4] for frame in container.decode(video=0)]
    assert ["red" if shade[0] > shade[2] else "blue" for shade in shades] == [
        "red", "red", "blue", "blue", "red",
    ]  # fmt: skip


# --- what goes wrong -----------------------------------------------------------------------------


def test_wrong_result_type_is_named_with_argument(bench: Bench):
    finished = bench.run(
        document(listing("words"), doing("crop_square", image="previous_result:list"))
    )
    assert failed(finished) == (
        "Step 'do' has invalid arguments for crop_square: image: A picture is needed: a text is"
        " not a picture."
    )


def test_unknown_mapping_key_is_named_with_a_hint(bench: Bench):
    finished = bench.run(
        document(listing({"width": 1}), listing("previous_result:list.widht", name="n"))
    )
    assert failed(finished) == (
        "A result of step 'list' has no 'widht', which 'n' refers to. Did you mean 'width'?"
    )


@pytest.mark.parametrize("name", ["__class__", "save", "_im"])
def test_image_property_reference_is_limited(bench: Bench, tmp_path: Path, name: str):
    pictures(tmp_path, "red")
    files = doing("gather_images", "files", None, glob="*.png")
    finished = bench.run(document(files, listing(f"previous_result:files.{name}")))
    assert f"has no '{name}'" in failed(finished)


def test_non_json_data_is_refused_when_saved(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red")
    files = doing("gather_images", "files", None, glob="*.png")
    finished = bench.run(document(files, listing("previous_result:files", name="n") | JSON))
    assert failed(finished).startswith("A Image cannot be saved as JSON.")


def test_cancel_between_task_calls_ends_run(bench: Bench, tmp_path: Path):
    pictures(tmp_path, "red", "blue", "lime")
    seen: list[StepProgress] = []

    def cancel(event: Event) -> None:
        if isinstance(event, StepProgress):
            seen.append(event)
            bench.cancel(event.run_id)

    bench.when = cancel
    files = doing("gather_images", "files", None, glob="*.png")
    finished = bench.run(document(files, doing("crop_square", image="previous_result:files")))
    assert isinstance(finished.terminal, RunCancelled)
    assert finished.terminal.phase == "computing"
    assert (len(seen), finished.results) == (1, ())


def test_too_many_task_combinations_are_refused(bench: Bench):
    many = listing(*range(101), name="x")
    pairs = doing("gather_inputs", "pair", None, a=["previous_result:x"] * 2)
    with pytest.raises(InvalidWorkflow, match="'pair' would run 10201 times; 10000 at most"):
        bench.plan(document(many, pairs))
