"""A run's own outcome is reported, whatever fails beside it: measurements, previews, idle work."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.protocol import (
    Event,
    MemoryReported,
    MemoryUse,
    PhaseChanged,
    Place,
    Preview,
    RunFailed,
    StepStarted,
)
from app.worker.device import Device
from app.worker.loading.origins import Origin
from app.worker.previews import FOLDER, LatentPreview, PreviewSource
from tests.doubles.accelerator import Accelerator
from tests.worker.bench import SHAPES, Bench, document, step


class LostDevice(Device):
    """A device that fails once it is lost, as CUDA after an illegal access."""

    is_lost = False

    def memory(self) -> MemoryUse:
        self._answer()
        return super().memory()

    def free_and_total_bytes(self) -> tuple[int, int]:
        self._answer()
        return super().free_and_total_bytes()

    def tidy(self) -> None:
        self._answer()
        super().tidy()

    def release(self) -> None:
        self._answer()
        super().release()

    def _answer(self) -> None:
        if self.is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture
def lost(tmp_path: Path) -> Bench:
    """A runner whose device is lost when a run denoises, so that the run fails."""
    device = LostDevice("cpu")
    bench = Bench(tmp_path, device)

    def fail(event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase == "denoising":
            device.is_lost = True
            raise error

    error: Exception = ValueError("what really went wrong")
    bench.when = fail
    return bench


def test_run_error_is_reported_when_memory_cannot_be_measured(lost: Bench):
    ended = lost.run(document()).terminal
    assert isinstance(ended, RunFailed)
    assert "what really went wrong" in ended.error.message


def test_out_of_memory_is_reported_when_memory_cannot_be_measured(tmp_path: Path):
    device = LostDevice("cpu")
    bench = Bench(tmp_path, device)
    tries: list[Event] = []

    def run_out(event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase == "denoising":
            tries.append(event)
            device.is_lost = len(tries) == 2
            raise MemoryError

    bench.when = run_out
    ended = bench.run(document()).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.kind == "OutOfMemory"
    assert ended.error.message.startswith("Memory ran out in step 'draw'")


def test_out_of_memory_between_steps_is_reported_when_memory_cannot_be_measured(tmp_path: Path):
    device = LostDevice("cpu")
    bench = Bench(tmp_path, device)

    def run_out(event: Event) -> None:
        if isinstance(event, StepStarted):
            device.is_lost = True
            raise MemoryError

    bench.when = run_out
    ended = bench.run(document()).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.kind == "OutOfMemory"
    assert ended.error.message.endswith("(loading).")


def test_run_error_is_reported_when_offloaded_components_cannot_be_restored(tmp_path: Path):
    class Unmoving(Accelerator):
        is_lost = False

        def move(self, component: Any, place: Place, origin: Origin | None = None) -> None:
            super().move(component, place, origin)
            if self.is_lost:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    device = Unmoving()
    # Less than the model's weights, so that its components are offloaded.
    bench = Bench(tmp_path, device, device_budget=20_000_000)

    def fail(event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase == "denoising":
            device.is_lost = True
            device.moves.clear()
            raise ValueError("what really went wrong")

    bench.when = fail
    ended = bench.run(document()).terminal
    assert device.moves
    assert isinstance(ended, RunFailed)
    assert "what really went wrong" in ended.error.message


def test_failure_is_reported_before_the_device_is_used(tmp_path: Path):
    """Such a device may never answer: then the worker is ended from outside."""
    asked_before_end: list[bool] = []
    told: list[Event] = []

    class Watched(LostDevice):
        def memory(self) -> MemoryUse:
            if self.is_lost:
                asked_before_end.append(not any(isinstance(e, RunFailed) for e in told))
            return super().memory()

    device = Watched("cpu")
    bench = Bench(tmp_path, device)

    def fail(event: Event) -> None:
        told.append(event)
        if isinstance(event, PhaseChanged) and event.phase == "denoising":
            device.is_lost = True
            raise ValueError("wrong")

    bench.when = fail
    bench.run(document())
    assert asked_before_end
    assert not any(asked_before_end)


@pytest.mark.parametrize("accelerator", [True, False])
def test_unresponsive_device_is_lost_with_held_components(tmp_path: Path, accelerator: bool):
    class Lost(LostDevice):
        @property
        def is_accelerator(self) -> bool:
            return accelerator

    device = Lost("cpu")
    bench = Bench(tmp_path, device)
    assert bench.run(document()).success
    assert not bench.runner.reports.device_is_lost

    def fail(event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase == "denoising":
            device.is_lost = True
            raise ValueError("wrong")

    bench.when = fail
    bench.run(document())
    assert bench.runner.reports.device_is_lost == accelerator


def test_caches_are_reported_with_their_sizes(bench: Bench):
    reports: list[MemoryReported] = []
    bench.when = lambda e: reports.append(e) if isinstance(e, MemoryReported) else None
    assert bench.run(document()).success
    bounded = {each.name: each for each in reports[-1].bounded}
    assert bounded["prompts"].held_bytes > 0
    assert bounded["step results"].held_bytes > 0
    assert all(each.held_bytes <= each.max_bytes for each in bounded.values())


# --- previews -------------------------------------------------------------------------------------

NO_MAPS: dict[str, bytes] = {
    "no JSON": b"{",
    "a list": b"[]",
    "empty": b"",
    "no factors": b"{}",
    "factors of texts": b'{"latent_rgb_factors": ["abc"], "latent_rgb_bias": [0, 0, 0]}',
    "rows of two": json.dumps({"latent_rgb_factors": [[1, 2]] * 4}).encode(),
    "no numbers": b'{"latent_rgb_factors": [[NaN, 0, 0]], "latent_rgb_bias": [0, 0, 0]}',
    "deep": b"[" * 100_000,
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("stored", NO_MAPS.values(), ids=NO_MAPS.keys())
def test_invalid_preview_file_does_not_fail_run(bench: Bench, model: Path, stored: bytes):
    (model / "preview.json").write_bytes(stored)
    assert bench.run(document(step(model=model)), previews=True).success


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_damaged_preview_map_does_not_fail_run(bench: Bench, content: bytes | None):
    maps = bench.runner.preview_maps
    file = maps._file("a decoder")
    file.parent.mkdir(parents=True)
    if content is None:
        save_file({"samples": torch.zeros(3, dtype=torch.float64)}, file)
    else:
        file.write_bytes(content)
    assert maps.learnt("a decoder") is None


def test_folder_instead_of_preview_map_does_not_fail_run(bench: Bench):
    maps = bench.runner.preview_maps
    maps._file("a decoder").mkdir(parents=True)
    assert maps.learnt("a decoder") is None
    assert maps._file("a decoder").parent.name == FOLDER


class FailingMap(LatentPreview):
    """Accepts all latents and cannot render any."""

    def __init__(self) -> None:
        super().__init__([(0.0, 0.0, 0.0)] * 4)
        self.asked = 0

    def render(self, *_: Any, **__: Any) -> tuple[bytes, int, int]:
        self.asked += 1
        raise ValueError("cannot be shown")


def test_preview_error_ends_previews_but_not_run(
    caplog: pytest.LogCaptureFixture,
):
    latents, failing = torch.zeros(1, 4, 8, 8), FailingMap()
    preview_source = PreviewSource(failing)
    assert preview_source.knows(latents)
    with caplog.at_level(logging.WARNING):
        assert preview_source.render(latents) is None
        assert preview_source.render(latents) is None
    assert failing.asked == 1
    assert not preview_source.knows(latents)
    assert "cannot be shown" in caplog.text


@pytest.mark.parametrize("width", [0, -8, "512", None, 512.0])
def test_invalid_size_does_not_fail_preview(width: Any):
    preview_source = PreviewSource(LatentPreview([(0.0, 0.0, 0.0)] * 4))
    preview_source.begin({"width": width, "height": 512})
    assert preview_source.knows(torch.zeros(1, 64, 4))
    assert preview_source.render(torch.zeros(1, 64, 4)) is not None


def test_previews_of_bundled_model_are_shown(bench: Bench):
    shown = bench.run(document(step(model=SHAPES)), previews=True)
    assert any(isinstance(event, Preview) for event in shown.events)


# --- idle moments ---------------------------------------------------------------------------------


def test_clean_up_continues_after_one_part_fails(tmp_path: Path):
    device = LostDevice("cpu")
    bench = Bench(tmp_path, device)
    assert bench.run(document()).success
    device.is_lost = True
    bench.runner.clean_up()
    device.is_lost = False
    assert bench.run(document(), fresh=True).success.loaded == ()
