"""Models of spandrel and controlnet_aux.

Stand-ins with the same interface replace the libraries, which need torchvision.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers.utils import is_torchvision_available

from app.dialect.plan import Plan
from app.errors import BadRequest
from app.planning.planner import make_plan
from app.protocol import RunFailed, StepProgress
from app.settings import PathSettings
from tests.doubles.accelerator import Accelerator
from tests.worker.bench import Bench, Document, document, pixels, same

PACKAGES = Path(__file__).resolve().parents[2] / "doubles" / "packages"
SIZE = (100, 70)


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Asked once, so that transformers does not see the stand-in module.
    assert not is_torchvision_available()
    there = types.ModuleType("torchvision")
    there.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision", there)
    monkeypatch.syspath_prepend(str(PACKAGES))
    yield
    for name in ("spandrel", "controlnet_aux"):
        sys.modules.pop(name, None)


@pytest.fixture
def seeing(bench: Bench) -> Bench:
    """A bench with an image `seen.png`."""
    Image.effect_noise(SIZE, 80).convert("RGB").save(bench.folder / "seen.png")
    return bench


def doing(command: str, **arguments: Any) -> Document:
    task = {"command": command, "arguments": {"image": "seen.png", **arguments}}
    return {"name": "do", "task": task, "result": {"content_type": "image/png"}}


def plan(bench: Bench, *steps: Document, pickles: bool = True) -> Plan:
    paths = PathSettings(media=(bench.folder,), models=(bench.models,), allow_pickles=pickles)
    return make_plan(bench.write(document(*steps)), {}, paths=paths, seed=7)


# --- upscale -------------------------------------------------------------------------------------


@pytest.fixture
def upscaler(seeing: Bench) -> Bench:
    save_file({"weight": torch.ones(1)}, seeing.folder / "twice.safetensors")
    return seeing


def test_upscale_is_equal_whole_and_in_tiles(upscaler: Bench):
    whole = upscaler.run(document(doing("upscale", model_name="twice.safetensors")))
    tiled = upscaler.run(
        document(doing("upscale", model_name="twice.safetensors", tile_size=64, tile_overlap=16))
    )
    assert whole.success.loaded == ("model of twice.safetensors (float32)",)
    assert tiled.success.loaded == ()
    with Image.open(upscaler.folder / "seen.png") as seen:
        expected = np.asarray(seen).repeat(2, 0).repeat(2, 1)
    for finished in (whole, tiled):
        assert np.abs(pixels(finished)[0].astype(int) - expected).max() <= 1
    progress = [(e.done, e.total) for e in tiled.events if isinstance(e, StepProgress)]
    assert progress == [(number, 4) for number in range(1, 5)]


def test_upscaler_is_counted_moved_and_freed(tmp_path: Path, upscaler: Bench):
    device = Accelerator()
    other = Bench(tmp_path / "other", device)
    other.folder = upscaler.folder
    wanted = document(doing("upscale", model_name="twice.safetensors"))
    first = other.run(wanted)
    (entry,) = other.runner.residency.entries
    assert (entry.place, entry.weight_bytes) == ("device", 4)
    assert device.moves == [("Foreign", "device")]
    other.free()
    assert other.runner.residency.entries == ()
    assert same(first, other.run(wanted))


def test_upscaler_file_is_chosen_and_prefers_safetensors(upscaler: Bench):
    folder = upscaler.models / "owner" / "upscalers"
    folder.mkdir(parents=True)
    (upscaler.folder / "twice.safetensors").rename(folder / "twice.safetensors")
    (folder / "twice.pth").write_bytes(b"a pickle")
    step = doing("upscale", model_name="owner/upscalers", filename="twice.pth")
    planned = plan(upscaler, step, pickles=False)
    assert planned.steps[0].sources[0].file == "twice.safetensors"
    assert pixels(upscaler.run(planned))[0].shape == (140, 200, 3)


def test_another_upscaler_file_is_another_model(upscaler: Bench):
    save_file({"weight": torch.full((1,), 0.5)}, upscaler.folder / "darker.safetensors")
    bright, dark = (
        upscaler.run(document(doing("upscale", model_name=f"{name}.safetensors")))
        for name in ("twice", "darker")
    )
    assert not same(bright, dark)
    assert dark.success.loaded == ("model of darker.safetensors (float32)",)


def test_task_out_of_memory_evicts_idle_and_retries(upscaler: Bench):
    save_file({"weight": torch.full((1,), 0.5)}, upscaler.folder / "idle.safetensors")
    idle = document(doing("upscale", model_name="idle.safetensors"))
    upscaler.run(upscaler.write(idle, "idle"))
    import spandrel

    spandrel.REFUSALS.append(torch.OutOfMemoryError("out of memory"))
    finished = upscaler.run(document(doing("upscale", model_name="twice.safetensors")))
    assert finished.success.out_of_memory
    assert [e.title for e in upscaler.runner.residency.entries] == [
        "model of twice.safetensors (float32)"
    ]
    spandrel.REFUSALS.extend(torch.OutOfMemoryError("out of memory") for _ in range(2))
    failed = upscaler.run(document(doing("upscale", model_name="twice.safetensors"))).terminal
    assert isinstance(failed, RunFailed)
    assert failed.error.kind == "OutOfMemory"


def test_tile_overlap_is_limited_to_half(upscaler: Bench):
    step = doing("upscale", model_name="twice.safetensors", tile_size=64, tile_overlap=40)
    with pytest.raises(BadRequest) as caught:
        upscaler.plan(document(step))
    assert "'tile_overlap' can be half of 'tile_size' at most" in str(caught.value)


# --- detectors -----------------------------------------------------------------------------------


@pytest.fixture
def detecting(seeing: Bench) -> Bench:
    """A bench with the annotators' weights."""
    torch.manual_seed(0)
    network = {name: value.abs() for name, value in torch.nn.Linear(3, 1).state_dict().items()}
    for repository, name in (
        ("lllyasviel/Annotators", "ControlNetHED.pth"),
        ("lllyasviel/Annotators", "sk_model.pth"),
        ("lllyasviel/Annotators", "sk_model2.pth"),
        ("TheMistoAI/MistoLine", "Anyline/MTEED.pth"),
    ):
        path = seeing.models / repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network, path)
    return seeing


def test_detector_is_called_with_fixed_arguments_and_held(detecting: Bench):
    asked = {"detect_resolution": 64, "image_resolution": 64}
    edges = detecting.run(plan(detecting, doing("hed", **asked)))
    assert edges.success.loaded == ("HEDdetector of Annotators (float32)",)
    scribble = detecting.run(plan(detecting, doing("scribble", **asked)))
    assert scribble.success.loaded == ()
    assert set(np.unique(pixels(scribble)[0])) <= {0, 255}
    assert len(np.unique(pixels(edges)[0])) > 2
    (entry,) = detecting.runner.residency.entries
    assert entry.weight_bytes == 4 * (3 + 1)
    detecting.free()
    assert detecting.runner.residency.entries == ()


def test_detector_may_have_several_files_in_a_folder(detecting: Bench):
    for command in ("lineart", "anyline"):
        assert detecting.run(plan(detecting, doing(command))).success.loaded


def test_pickles_are_read_only_if_allowed(detecting: Bench):
    with pytest.raises(BadRequest) as caught:
        plan(detecting, doing("hed"), pickles=False)
    (problem,) = caught.value.problems
    assert problem.place == "steps[0].task.arguments.model_name"
    assert problem.message.endswith("are pickles, which may hold code.")
    assert "--allow-pickles" in problem.hint


def test_missing_model_file_is_reported_while_planning(detecting: Bench):
    with pytest.raises(BadRequest) as caught:
        plan(detecting, doing("leres"))
    assert "has no file 'res101.pth'" in str(caught.value)
