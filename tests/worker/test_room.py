"""Evictions to make room for a load; never of what the run itself needs now."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from app.protocol import (
    Budgets,
    DropComponents,
    FreeMemory,
    Loading,
    MemoryFreed,
    MoveToRam,
    PinComponent,
    RunFailed,
)
from app.worker.loading.origins import find_origin
from tests.doubles.accelerator import Accelerator
from tests.engines import Finished
from tests.worker.bench import SHAPES, Bench, document, pixels, same, step

MODEL_BYTES = 22_280_428
"""Weights of the bundled model; the tests' three models are copies of it."""


WEIGHTED = ("AutoencoderKL", "CLIPTextModel", "UNet2DConditionModel")
"""Its components with weights, in loading order."""
PLACES = ("device", "ram")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        shutil.copytree(SHAPES, tmp_path / name)
    return tmp_path


@pytest.fixture
def crowded(models: Path) -> Bench:
    """A runner with room for one model."""
    return Bench(models, device_budget=MODEL_BYTES)


def draw(bench: Bench, *models: str, **changes: Any) -> Finished:
    steps = [step(f"draw_{model}", model=model) for model in models]
    name = "-".join(models)
    return bench.run(bench.write(document(*steps, id=name, **changes), name))


def held(bench: Bench) -> set[str]:
    """Returns models whose weights are held."""
    entries = (entry for entry in bench.runner.residency.entries if entry.weight_bytes)
    return {entry.title.split(" of ")[1].split(" ")[0] for entry in entries}


def pin(bench: Bench, model: str, pinned: bool = True) -> None:
    for entry in bench.runner.residency.entries:
        if f" of {model} " in entry.title:
            bench.runner.pin(PinComponent(key=entry.key, pinned=pinned))


def test_idle_components_are_evicted_for_a_load(crowded: Bench, caplog: pytest.LogCaptureFixture):
    assert draw(crowded, "a").success
    with caplog.at_level(logging.INFO, logger="app"):
        assert draw(crowded, "b").success
    assert held(crowded) == {"b"}
    line = next(line for line in caplog.messages if line.startswith("Dropping unet of a"))
    assert line.endswith("and 22 MB may be held")
    eviction = crowded.runner.residency.last_eviction
    assert eviction is not None
    assert eviction.reason.startswith("'b' loads ")


def test_evicted_model_reloads_with_the_same_image(crowded: Bench):
    first = draw(crowded, "a")
    draw(crowded, "b")
    again = draw(crowded, "a")
    assert again.success.loaded
    assert same(first, again)


def test_nothing_is_evicted_if_both_models_fit(models: Path):
    roomy = Bench(models, device_budget=3 * MODEL_BYTES)
    for name in ("a", "b"):
        assert draw(roomy, name).success
    assert held(roomy) == {"a", "b"}
    assert draw(roomy, "a").success.loaded == ()


def test_models_of_one_run_replace_each_other_if_needed(crowded: Bench):
    alone, both = draw(crowded, "b"), draw(crowded, "a", "b")
    assert held(crowded) == {"b"}
    (last,) = pixels(alone)
    assert (pixels(both)[1] == last).all()


def test_components_of_later_steps_are_evicted_last(models: Path):
    two = Bench(models, device_budget=2 * MODEL_BYTES)
    draw(two, "b")
    draw(two, "c")
    assert not any(" of b " in title for title in draw(two, "a", "b").success.loaded)
    assert held(two) == {"a", "b"}


def test_too_large_model_is_refused_before_evictions(crowded: Bench):
    draw(crowded, "a")
    half = Budgets(device_bytes=MODEL_BYTES // 2, ram_bytes=0)
    crowded.runner.placement.budgets = half
    failed = draw(crowded, "b").terminal
    assert isinstance(failed, RunFailed)
    assert failed.error.kind == "TooLarge"
    assert failed.error.message == (
        "Step 'draw_b' needs 0.0223 GB of weights at once; 0.0111 GB may be held."
    )
    assert held(crowded) == {"a"}


def test_pinned_component_stays_and_load_is_refused(crowded: Bench):
    draw(crowded, "a")
    pin(crowded, "a")
    failed = draw(crowded, "b").terminal
    assert isinstance(failed, RunFailed)
    assert "beside what is pinned: " in failed.error.message
    assert "a" in held(crowded)
    pin(crowded, "a", pinned=False)
    assert draw(crowded, "b").success
    assert held(crowded) == {"b"}


def test_free_drops_pinned_components(crowded: Bench):
    draw(crowded, "a")
    pin(crowded, "a")
    told: list[Any] = []
    crowded.when = told.append
    crowded.runner.free(FreeMemory(request_id="free"))
    assert held(crowded) == set()
    (freed,) = [event for event in told if isinstance(event, MemoryFreed)]
    assert freed.seconds > 0
    assert {item.title for item in freed.dropped if item.pinned}


def test_dropped_component_alone_is_reloaded(crowded: Bench):
    draw(crowded, "a")
    (unet,) = [e for e in crowded.runner.residency.entries if e.title.startswith("unet")]
    crowded.runner.drop(DropComponents(keys=(unet.key,), reason="somebody asked for it"))
    assert draw(crowded, "a").success.loaded == (unet.title,)


# --- an accelerator's memory and the machine's ---------------------------------------------------


def test_component_moves_to_ram_and_back_without_load(models: Path):
    accelerator = Accelerator()
    bench = Bench(models, accelerator, device_budget=MODEL_BYTES, ram_budget=4 * MODEL_BYTES)
    first = draw(bench, "a")
    assert accelerator.moves == [(name, "device") for name in WEIGHTED]
    draw(bench, "b")
    assert set(accelerator.moves) == {(name, place) for name in WEIGHTED for place in PLACES}
    eviction = bench.runner.residency.last_eviction
    assert eviction is not None
    assert eviction.what == "moved to RAM"
    again = draw(bench, "a")
    assert again.success.loaded == ()
    assert same(first, again)
    assert bench.runner.residency.bytes_in("device") == MODEL_BYTES


def test_component_is_dropped_if_ram_is_full(models: Path):
    bench = Bench(models, Accelerator(), device_budget=MODEL_BYTES // 2, ram_budget=1000)
    converted = {"torch_dtype": "torch.bfloat16"}
    for name in ("a", "b"):
        draw_step = step(model=name, loading=converted)
        assert bench.run(bench.write(document(draw_step, id=name), name)).success
    assert held(bench) == {"b"}


def test_move_to_ram_command_moves_component_and_back(models: Path):
    bench = Bench(models, Accelerator(), ram_budget=4 * MODEL_BYTES)
    first = draw(bench, "a")
    keys = tuple(entry.key for entry in bench.runner.residency.entries)
    bench.runner.move_to_ram(MoveToRam(keys=(*keys, "gone already"), reason="it was idle"))
    assert bench.runner.residency.bytes_in("device") == 0
    assert held(bench) == {"a"}
    eviction = bench.runner.residency.last_eviction
    assert eviction is not None
    assert (eviction.what, eviction.reason) == ("moved to RAM", "it was idle")
    again = draw(bench, "a")
    assert again.success.loaded == ()
    assert same(first, again)


def test_file_backed_weights_need_no_room_in_ram(models: Path):
    bench = Bench(models, Accelerator(), device_budget=MODEL_BYTES, ram_budget=1000)
    first = draw(bench, "a")
    assert in_files(bench, "a") == 0, "the double's device has memory of its own"
    draw(bench, "b")
    assert held(bench) == {"a", "b"}
    assert in_files(bench, "a") == MODEL_BYTES
    assert bench.runner.residency.bytes_in("ram") == 0
    again = draw(bench, "a")
    assert again.success.loaded == ()
    assert same(first, again)


def test_offloaded_components_are_file_backed_afterwards(models: Path):
    accelerator = Accelerator()
    bench = Bench(models, accelerator, device_budget=MODEL_BYTES, ram_budget=MODEL_BYTES)
    offloaded = step(model="a")
    offloaded["pipeline"]["configuration"]["offload"] = "model"
    assert bench.run(document(offloaded)).success
    assert sorted(accelerator.moves) == [(name, "ram") for name in WEIGHTED]
    assert in_files(bench, "a") == MODEL_BYTES
    assert bench.runner.residency.bytes_in("ram") == 0


def in_files(bench: Bench, model: str) -> int:
    """Returns the model's weight bytes that are mapped file pages, by address."""
    entries = [e for e in bench.runner.residency.entries if f" of {model} " in e.title]
    folder = bench.folder / model
    return sum(
        find_origin(entry.component, folder.rglob("*.safetensors")).size_bytes
        for entry in entries
        if entry.weight_bytes
    )


# --- how a step is run where not everything fits at once -----------------------------------------


def mode(finished: Finished) -> dict[str, Any]:
    """Returns the mode in the record of the run's last result."""
    assert finished.success
    return json.loads(Path(finished.results[-1].sidecar).read_text())["mode"]


PLAIN = {"offload": None, "vae_slicing": False, "vae_tiling": False}


def test_step_uses_document_mode_if_it_fits(models: Path):
    assert mode(draw(Bench(models, Accelerator()), "a")) == PLAIN


def test_step_is_offloaded_and_recorded_if_too_large(
    models: Path, caplog: pytest.LogCaptureFixture
):
    whole = draw(Bench(models, Accelerator()), "a")
    tight = Bench(models, Accelerator(), device_budget=20_000_000)
    with caplog.at_level(logging.INFO, logger="app"):
        turned = draw(tight, "a")
    assert mode(turned) == {**PLAIN, "offload": "model"}
    assert "Step 'draw_a' runs with offload model, to fit into memory" in caplog.messages
    assert same(whole, turned)
    assert same(whole, draw(tight, "a"))


def test_decode_is_tiled_and_recorded_if_too_large(models: Path):
    """256 pixels: 25 MB to decode beside 22 MB of weights; a tile of 128 pixels takes 7 MB."""
    sized = document(step("draw", model="a", width=256, height=256), id="tiled")
    tight = Bench(models, Accelerator(total_bytes=40_000_000), device_budget=MODEL_BYTES)
    assert mode(tight.run(sized)) == {**PLAIN, "vae_tiling": True}
    roomy = Bench(models, Accelerator())
    assert mode(roomy.run(sized)) == PLAIN


@pytest.mark.parametrize("replaced", [False, True], ids=["gone", "replaced"])
def test_component_without_files_moves_as_a_copy(models: Path, replaced: bool):
    """The files to map are gone, or have other weights."""
    bench = Bench(models, Accelerator())
    assert draw(bench, "a").success
    entry = next(e for e in bench.runner.residency.entries if e.title.startswith("unet"))
    weights = {name: tensor.clone() for name, tensor in entry.component.state_dict().items()}
    assert entry.origin is not None
    for file in entry.origin.files:
        content = file.read_bytes()
        file.unlink()
        if replaced:
            file.write_bytes(content[:-4096] + bytes(4096))
    bench.runner.move_to_ram(MoveToRam(keys=(entry.key,), reason="idle"))
    assert entry.place == "ram"
    assert entry.file_backed_bytes == 0
    for name, tensor in entry.component.state_dict().items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize(
    ("sample_size", "arguments"), [(4096, {}), (16, {"width": 8192, "height": 8192})]
)
def test_too_large_image_is_refused_before_loading(
    models: Path, sample_size: int, arguments: dict[str, int]
):
    """The model's own default size counts for a call without one."""
    path = models / "a" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": sample_size}))
    bench = Bench(models, Accelerator(total_bytes=500_000_000), device_budget=400_000_000)
    ended = bench.run(document(step(model=models / "a", **arguments)))
    assert isinstance(ended.terminal, RunFailed)
    assert ended.terminal.error.kind == "TooLarge"
    assert "while it runs; there are 0.5 GB" in ended.terminal.error.message
    assert not any(isinstance(event, Loading) for event in ended.events)
