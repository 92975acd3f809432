"""Results of files that were replaced during the run are not cached."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.dialect.fingerprint import identify_file
from app.dialect.plan import Plan
from app.models.plan_specs import plan_specs
from app.planning.request_keys import request_key
from app.protocol import Event, MemoryReported, PhaseChanged, RunSucceeded, StartRun, StepRemembered
from tests.engines import Finished
from tests.worker.bench import Bench, document, pixels, step


def unet_of(model: Path) -> Path:
    return model / "unet" / "diffusion_pytorch_model.safetensors"


def overwrite(file: Path, content: bytes) -> None:
    """Writes into the file in place, and restores its modification time."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def without_its_end(content: bytes) -> bytes:
    """Returns the content with its last numbers zeroed."""
    return content[:-4096] + bytes(4096)


def is_remembered(finished: Finished) -> bool:
    assert finished.success
    return any(isinstance(event, StepRemembered) for event in finished.events)


def prepared(plan: Plan, *, lists: bool = True) -> StartRun:
    """The command of a run, with what it loads as a list or only by its folders."""
    specs = plan_specs(plan.steps) if lists else None
    key = request_key(plan, "cpu", specs)
    return StartRun(run_id="20260101-000000-ffffff", plan=plan, request_key=key, specs=specs)


def carried_out(bench: Bench, command: StartRun) -> RunSucceeded:
    ended: list[Event] = []
    bench.when = ended.append
    bench.runner.run(command)
    found = next(event for event in ended if isinstance(event, RunSucceeded))
    return found


def test_overwritten_and_restored_file_has_another_identity(tmp_path: Path):
    file = tmp_path / "unet.safetensors"
    file.write_bytes(b"weights")
    before = identify_file(file)
    assert identify_file(file) == before
    overwrite(file, b"others!")
    overwrite(file, b"weights")
    assert identify_file(file) != before


def test_result_of_replaced_model_is_not_cached(bench: Bench, model: Path):
    file, asked = unet_of(model), document(step(model=model))
    content = file.read_bytes()
    before = pixels(bench.run(asked))
    replaced = {"denoising": without_its_end(content), "decoding": content}

    def replace(event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase in replaced:
            overwrite(file, replaced[event.phase])

    bench.when = replace
    mixed = pixels(bench.run(asked))
    assert not np.array_equal(mixed, before)
    bench.when = lambda _event: None
    again = bench.run(asked, fresh=False)
    assert not is_remembered(again)
    assert np.array_equal(pixels(again), before)
    assert is_remembered(bench.run(asked, fresh=False))


def test_components_of_replaced_file_are_dropped(bench: Bench, model: Path):
    """A cancelled or failed run may have left mixed weights and prompts too."""
    file = unet_of(model)
    reports: list[MemoryReported] = []

    def replace(event: Event) -> None:
        if isinstance(event, MemoryReported):
            reports.append(event)
        if isinstance(event, PhaseChanged) and event.phase == "denoising":
            overwrite(file, file.read_bytes())
            raise ValueError("something else")

    bench.when = replace
    bench.run(document(step(model=model)))
    assert reports[-1].held == ()
    assert reports[-1].last_eviction is not None
    assert file.name in reports[-1].last_eviction.reason
    assert bench.runner.prompts.cache.held_bytes == 0


@pytest.mark.parametrize("lists", [True, False])
def test_request_with_replaced_model_is_not_cached(bench: Bench, model: Path, lists: bool):
    command = prepared(bench.plan(document(step(model=model))), lists=lists)
    assert not carried_out(bench, command).files_changed
    overwrite(unet_of(model), unet_of(model).read_bytes())
    assert carried_out(bench, command).files_changed


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def test_result_of_replaced_image_is_not_cached(bench: Bench, picture: Path):
    """The plan names the image by its content, which has changed."""
    image = {"location": picture.name}
    plan = bench.plan(document(step(kind="Img2Img", image=image, strength=1.0)))
    command = prepared(plan)
    red = picture.read_bytes()
    Image.new("RGB", (64, 64), "blue").save(picture)
    assert carried_out(bench, command).files_changed
    picture.write_bytes(red)
    bench.when = lambda _event: None
    assert not is_remembered(bench.run(plan, fresh=False))
    assert is_remembered(bench.run(plan, fresh=False))
