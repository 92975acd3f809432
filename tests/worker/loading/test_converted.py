"""Weights in another dtype than their files are converted once, and cached on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.worker.loading.converted import LIST, ConvertedWeights
from app.worker.residency import Entry
from tests.worker.bench import Bench, document, same, step

DTYPE = "torch.bfloat16"
HALF = document(step(model="model", loading={"safety_checker": None, "torch_dtype": DTYPE}))
WEIGHTED = {"unet", "vae", "text_encoder"}


@pytest.fixture
def folder(bench: Bench) -> Path:
    """Folder of converted weights."""
    return bench.folder / "outputs" / ".weights"


def weighted(bench: Bench) -> dict[str, Entry]:
    """Returns held components with weights, by name."""
    entries = (entry for entry in bench.runner.residency.entries if entry.weight_bytes)
    return {entry.title.split()[0]: entry for entry in entries}


def restarted(bench: Bench, **settings: Any) -> Bench:
    """Returns another worker with the same outputs folder."""
    return Bench(bench.folder, **settings)


def unet_of(folder: Path) -> Path:
    (found,) = [p for p in folder.iterdir() if "unet of" in (p / LIST).read_text()]
    return found


def test_converted_weights_are_written_when_idle(bench: Bench, model: Path, folder: Path):
    bench.run(HALF)
    assert not folder.exists()
    assert all(entry.file_backed_bytes == 0 for entry in weighted(bench).values())
    bench.runner.clean_up()
    kept = ConvertedWeights(folder, 0).kept()
    assert {each.title for each in kept} == {f"{name} of model (bfloat16)" for name in WEIGHTED}
    assert all(path.is_dir() for path in folder.iterdir())


def test_converted_component_is_mapped_to_its_new_files(bench: Bench, model: Path):
    first = bench.run(HALF)
    bench.runner.clean_up()
    for entry in weighted(bench).values():
        held_bytes = sum(tensor.nbytes for tensor in entry.component.state_dict().values())
        assert entry.file_backed_bytes == held_bytes
    again = bench.run(HALF)
    assert again.success.loaded == ()
    assert same(first, again)


def test_converted_weights_are_reused_after_restart(bench: Bench, model: Path):
    first = bench.run(HALF)
    bench.runner.clean_up()
    other = restarted(bench)
    again = other.run(HALF)
    assert again.success.loaded
    assert same(first, again)
    for name, entry in weighted(other).items():
        assert entry.file_backed_bytes > 0, name
        assert {t.dtype for t in entry.component.state_dict().values()} == {torch.bfloat16}


def test_unconverted_weights_are_not_written(bench: Bench, model: Path, folder: Path):
    bench.run(document(step(model="model")))
    bench.runner.clean_up()
    assert not folder.exists()


def test_evicted_converted_weights_are_not_written(bench: Bench, model: Path, folder: Path):
    bench.run(HALF)
    bench.free()
    bench.runner.clean_up()
    assert not folder.exists()


@pytest.mark.parametrize("looks", [0, 1, 50])
def test_interrupted_write_leaves_no_files_and_starts_again(
    bench: Bench, model: Path, folder: Path, looks: int
):
    """Commands are checked before each file, and while written files are compared."""
    first = bench.run(HALF)
    answers = iter([False] * looks)
    bench.runner.clean_up(lambda: next(answers, True))
    store = ConvertedWeights(folder, 0)
    assert len(store.kept()) < len(WEIGHTED)
    assert all(store.find(path.name) for path in folder.iterdir())
    assert same(first, bench.run(HALF))
    bench.runner.clean_up()
    assert len(store.kept()) == len(WEIGHTED)


def truncate(unet: Path) -> None:
    (weights,) = unet.glob("*.safetensors")
    os.truncate(weights, weights.stat().st_size - 1)


def garble(unet: Path) -> None:
    (weights,) = unet.glob("*.safetensors")
    weights.write_bytes(b"\xff" * weights.stat().st_size)


def lose_the_list(unet: Path) -> None:
    (unet / LIST).unlink()


def lose_a_file(unet: Path) -> None:
    next(unet.glob("*.safetensors")).unlink()


def edit_the_configuration(unet: Path) -> None:
    (unet / "config.json").write_text("{}")


def rename_a_tensor(unet: Path) -> None:
    (weights,) = unet.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes().replace(b'"conv_in.bias"', b'"conv_in.bIas"', 1))


def be_of_another_version(unet: Path) -> None:
    listed = json.loads((unet / LIST).read_text())
    listed["versions"]["torch"] = "1.0"
    (unet / LIST).write_text(json.dumps(listed))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        garble,
        lose_the_list,
        lose_a_file,
        edit_the_configuration,
        rename_a_tensor,
        be_of_another_version,
    ],
)
def test_damaged_converted_weights_are_written_again(
    bench: Bench,
    model: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
):
    first = bench.run(HALF)
    bench.runner.clean_up()
    unet = unet_of(folder)
    bench.free()
    damage(unet)
    other = restarted(bench)
    with caplog.at_level(logging.WARNING, logger="app"):
        assert same(first, other.run(HALF))
    assert [line for line in caplog.messages if unet.name in line]
    assert not unet.exists()
    assert weighted(other)["unet"].file_backed_bytes == 0
    assert weighted(other)["vae"].file_backed_bytes > 0
    other.runner.clean_up()
    assert ConvertedWeights(folder, 0).find(unet.name) == unet


def test_cleared_weights_of_evicted_component_are_converted_again(
    bench: Bench, model: Path, folder: Path
):
    first = bench.run(HALF)
    bench.runner.clean_up()
    bench.free()
    assert ConvertedWeights(folder, 0).clear() > 0
    assert same(first, bench.run(HALF))


def test_cleared_weights_of_held_component_are_not_missed(bench: Bench, model: Path, folder: Path):
    first = bench.run(HALF)
    bench.runner.clean_up()
    shutil.rmtree(folder)
    again = bench.run(HALF)
    assert again.success.loaded == ()
    assert same(first, again)


def test_converted_weights_are_not_kept_without_room(model: Path, folder: Path):
    bench = Bench(model.parent, converted_weights_bytes=0)
    bench.run(HALF)
    bench.runner.clean_up()
    assert not folder.exists()


def test_converted_weights_evict_least_recently_used(bench: Bench, model: Path, folder: Path):
    bench.run(HALF)
    bench.runner.clean_up()
    kept = {each.title.split()[0]: each.size_bytes for each in ConvertedWeights(folder, 0).kept()}
    for number, name in enumerate(("vae", "unet", "text_encoder")):
        (found,) = [p for p in folder.iterdir() if f"{name} of" in (p / LIST).read_text()]
        os.utime(found, (number, number))
    store = ConvertedWeights(folder, kept["text_encoder"] + kept["unet"])
    with store.writing("another", "another of model") as written:
        (written / "config.json").write_text("{}")
    titles = {each.title.split()[0] for each in store.kept()}
    assert titles == {"another", "text_encoder"}


def test_half_written_folders_are_listed_and_cleared(tmp_path: Path):
    left = tmp_path / ".weights" / ".half" / "key"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    store = ConvertedWeights(tmp_path / ".weights", 10)
    assert [(each.title, each.size_bytes) for each in store.kept()] == [("half written", 4)]
    assert store.clear() == 4
    assert store.kept() == []
