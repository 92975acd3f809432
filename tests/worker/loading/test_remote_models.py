"""The task remove_background, whose model's own code runs only if it was allowed at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from app.dialect.plan import Plan, TaskStep
from app.errors import InvalidWorkflow
from app.models.resolve import component_specs
from app.models.specs import Selection
from app.planning.planner import make_plan
from app.protocol import RunFailed
from app.settings import MediaLimits, PathSettings
from tests.doubles.accelerator import Accelerator
from tests.doubles.installed import count_as_installed
from tests.standins.vision import build_matting_model
from tests.worker.bench import Bench, Document, document, same, step

RMBG, OTHER = "briaai/RMBG-2.0", "owner/matting"
SIZE = (90, 60)
OBJECT = (slice(20, 40), slice(30, 60))


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_installed(monkeypatch, "torchvision", "timm", "kornia", "einops")


@pytest.fixture
def cutting(bench: Bench) -> Bench:
    """A bench with two models, and an image of a white object on dark grey, `seen.png`."""
    for name in (RMBG, OTHER):
        build_matting_model(bench.models / name)
    pixels = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    pixels[OBJECT] = 250
    Image.fromarray(pixels).save(bench.folder / "seen.png")
    return bench


def cut(saved_as: str = "image/png", **arguments: Any) -> Document:
    task = {"command": "remove_background", "arguments": {"image": "seen.png", **arguments}}
    return {"name": "do", "task": task, "result": {"content_type": saved_as}}


def planned(bench: Bench, task: Document, *trusted: str) -> Plan:
    paths = PathSettings(media=(bench.folder,), models=(bench.models,), trust_remote_code=trusted)
    return make_plan(bench.write(document(task)), {}, paths=paths, seed=1)


def sentence(bench: Bench, step: Document, *trusted: str) -> str:
    terminal = bench.run(planned(bench, step, *trusted)).terminal
    assert isinstance(terminal, RunFailed)
    return f"{terminal.error.message} {terminal.error.hint}".strip()


def test_background_becomes_transparent_in_image_of_same_size(cutting: Bench):
    plan = planned(cutting, cut(), RMBG)
    cold, warm = cutting.run(plan), cutting.run(plan)
    with Image.open(cold.results[0].path) as image:
        assert (image.mode, image.size) == ("RGBA", SIZE)
        found = np.asarray(image)
    inside, outside = found[22:38, 32:58], np.delete(found, slice(18, 42), axis=0)
    assert (inside == (250, 250, 250, 255)).all()
    assert (outside == (255, 255, 255, 0)).all()
    assert cold.success.loaded == ("model of RMBG-2.0 (float32)",)
    assert warm.success.loaded == ()
    assert same(cold, warm)


def test_image_without_alpha_has_white_background(cutting: Bench):
    finished = cutting.run(planned(cutting, cut("image/bmp"), RMBG))
    with Image.open(finished.results[0].path) as image:
        assert image.mode == "RGB"
        assert image.getpixel((5, 5)) == (255, 255, 255)


def test_model_is_counted_moved_and_freed(tmp_path: Path, cutting: Bench):
    device = Accelerator()
    other = Bench(tmp_path / "other", device)
    other.folder, other.models = cutting.folder, cutting.models
    first = other.run(planned(other, cut(), RMBG))
    (entry,) = other.runner.residency.entries
    assert (entry.place, entry.weight_bytes) == ("device", 2 * 4 * 4)
    other.free()
    assert other.runner.residency.entries == ()
    assert same(first, other.run(planned(other, cut(), RMBG)))


def test_code_of_model_needs_trust_in_its_repository(cutting: Bench):
    for trusted in ((), (OTHER,)):
        with pytest.raises(InvalidWorkflow) as caught:
            planned(cutting, cut(), *trusted)
        (problem,) = caught.value.problems
        assert problem.place == "steps[0].task.arguments.model_name"
        assert problem.message.startswith(f"'{RMBG}' would run code of its own here")
        assert f"--trust-remote-code {RMBG}" in problem.hint


def test_non_commercial_licence_is_told_while_planning(cutting: Bench):
    (warning,) = planned(cutting, cut(), RMBG).warnings
    assert warning.startswith("steps[0].task.arguments.model_name: The licence of")
    assert planned(cutting, cut(model_name=OTHER), OTHER).warnings == ()


def test_code_weights_and_texts_are_wanted(cutting: Bench):
    (step,) = planned(cutting, cut(), RMBG).steps
    assert isinstance(step, TaskStep)
    asked: list[Selection] = []

    def find(_source: Any, wanted: Selection) -> Path:
        asked.append(wanted)
        return cutting.models / RMBG

    component_specs(step, find)
    files = ["config.json", "matting.py", "model.safetensors", "model.bin", "onnx/model.onnx"]
    assert [set(wanted.of(files)) for wanted in asked] == [set(files[:3])]


def test_changed_code_is_another_model(cutting: Bench):
    first = cutting.run(planned(cutting, cut(), RMBG))
    code = cutting.models / RMBG / "matting.py"
    code.write_text(code.read_text().replace("stage(x) for", "-stage(x) for"))
    second = cutting.run(planned(cutting, cut(), RMBG))
    assert second.success.loaded
    assert not same(first, second)


def test_weights_in_half_precision_are_computed_in_float32(cutting: Bench):
    file = cutting.models / RMBG / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    finished = cutting.run(planned(cutting, cut(), RMBG))
    assert finished.success.loaded == ("model of RMBG-2.0 (float32)",)


def test_loading_draws_no_random_numbers(cutting: Bench):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert cutting.run(planned(cutting, cut(), RMBG)).success
    assert torch.equal(torch.rand(3), expected)


def test_wrong_models_are_refused_in_a_sentence(cutting: Bench):
    folder = cutting.models / RMBG
    code, config = folder / "matting.py", folder / "config.json"
    whole, weights = code.read_text(), load_file(folder / "model.safetensors")
    code.write_text(whole.replace("return [stage(x) for stage in self.stages]", "return x"))
    assert f"'{RMBG}' is no model for this task" in sentence(cutting, cut(), RMBG)
    code.write_text("import nowhere_to_be_found\n" + whole)
    assert "No module named 'nowhere_to_be_found'" in sentence(cutting, cut(), RMBG)
    code.write_text(whole)
    del weights["stages.1.bias"]
    save_file(weights, folder / "model.safetensors")
    assert "'stages.1.bias' has no weights" in sentence(cutting, cut(), RMBG)
    config.write_text(json.dumps({"auto_map": {
        "AutoModelForImageSegmentation": "somebody/else--matting.Matting"}}))  # fmt: skip
    assert "has no code of its own for this task" in sentence(cutting, cut(), RMBG)


@pytest.mark.parametrize("background", ["white", "#ff0000"])
@pytest.mark.parametrize("listed", [False, True])
def test_transparent_result_is_redrawn_on_the_background_as_its_file_is(
    cutting: Bench, background: str, listed: bool
):
    """diffusers takes an image of four channels for latents."""
    first = cutting.run(planned(cutting, cut(), RMBG))
    (cutting.folder / "cut.png").write_bytes(Path(first.results[0].path).read_bytes())
    made = []
    for image in ("previous_result:do", "cut.png"):
        drawn = step(
            kind="Img2Img",
            image=[image] if listed else image,
            strength=0.5,
            num_inference_steps=4,
        )
        paths = PathSettings(
            media=(cutting.folder,),
            models=(cutting.models,),
            trust_remote_code=(RMBG,),
            limits=MediaLimits(picture_background=background),
        )
        path = cutting.write(document(cut(), drawn))
        finished = cutting.run(make_plan(path, {}, paths=paths, seed=1))
        made.append(np.asarray(Image.open(finished.results[-1].path)))
    assert made[0].shape == (56, 88, 3)
    assert np.array_equal(*made)


def test_alpha_of_a_result_that_is_a_mask_counts(cutting: Bench):
    Image.new("RGB", SIZE, "orange").save(cutting.folder / "own.png")
    drawn = step(
        kind="Inpaint", image="own.png", mask_image="previous_result:do", num_inference_steps=4
    )
    path = cutting.write(document(cut(), drawn))
    paths = PathSettings(
        media=(cutting.folder,), models=(cutting.models,), trust_remote_code=(RMBG,)
    )
    finished = cutting.run(make_plan(path, {}, paths=paths, seed=1))
    made = np.asarray(Image.open(finished.results[-1].path))
    assert (made[2, 2] == (255, 165, 0)).all()
    assert not (made[OBJECT][6:14, 10:20] == (255, 165, 0)).all(axis=-1).any()
