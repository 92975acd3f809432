"""Embeddings on disk: small files, bounded, and verified."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.settings import MIB
from app.worker.embeddings import MAX_FILE_BYTES, Embeddings, EmbeddingsFolder
from app.worker.memo import FOLDER
from tests.engines import run, started_engine
from tests.worker.bench import Bench, document, same, step
from tests.worker.encoding import encoded


def file_of(bench: Bench) -> Path:
    """Returns the only embeddings file."""
    (file,) = (bench.folder / "outputs" / FOLDER).iterdir()
    return file


def test_embeddings_are_written_only_at_clean_up(bench: Bench):
    bench.run(document(step()))
    assert not (bench.folder / "outputs" / FOLDER).exists()
    bench.runner.clean_up()
    assert file_of(bench).suffix == ".safetensors"


def test_embeddings_are_written_at_shutdown(tmp_path: Path, bench: Bench):
    """As on the command line: one run, and the process ends."""
    workflow = bench.write(document(step()))
    with started_engine(tmp_path / "outputs") as engine:
        cold = run(engine, workflow)
    warm = encoded(bench, document(step()), seed=3)
    assert warm.calls == 0
    assert same(cold, warm.finished)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def with_one_bit_turned(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))


def of_somebody_else(file: Path) -> None:
    save_file({"weight": torch.zeros(4)}, file)


@pytest.mark.parametrize(
    "spoil",
    [
        cut_off,
        with_one_bit_turned,
        of_somebody_else,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"no tensors"),
    ],
    ids=["cut off", "one bit turned", "of somebody else", "empty", "text"],
)
def test_damaged_embeddings_file_is_removed_and_computed_again(
    bench: Bench, spoil: Callable[[Path], None]
):
    before = encoded(bench, document(step()))
    bench.runner.clean_up()
    spoil(file_of(bench))
    restarted = Bench(bench.folder)
    again = encoded(restarted, document(step()))
    assert again.calls > 0
    assert same(before.finished, again.finished)
    assert not list((bench.folder / "outputs" / FOLDER).iterdir())
    restarted.runner.clean_up()
    assert encoded(Bench(bench.folder), document(step())).calls == 0


def test_large_embeddings_are_not_written(tmp_path: Path):
    folder = EmbeddingsFolder(tmp_path / FOLDER, 2 * MAX_FILE_BYTES)
    folder.write("large", Embeddings.of(torch.zeros(MAX_FILE_BYTES + 1, dtype=torch.uint8)))
    assert folder.find("large") is None


def test_embeddings_folder_evicts_least_recently_used(tmp_path: Path):
    embeddings = Embeddings.of(torch.zeros(1000))
    roomy = EmbeddingsFolder(tmp_path, MIB)
    for age, key in enumerate(["first", "second", "third"]):
        roomy.write(key, embeddings)
        os.utime(tmp_path / f"{key}.safetensors", (age, age))
    assert roomy.find("first") is not None, "and is now the one used last"
    size_bytes = (tmp_path / "first.safetensors").stat().st_size
    EmbeddingsFolder(tmp_path, 3 * size_bytes).write("fourth", embeddings)
    assert {file.stem for file in tmp_path.iterdir()} == {"first", "third", "fourth"}


def test_unwritable_embeddings_folder_is_only_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    before = encoded(bench, document(step()))
    (bench.folder / "outputs" / FOLDER).write_text("a file is in the way")
    bench.runner.clean_up()
    assert "Prompt embeddings could not be written" in caplog.text
    again = encoded(bench, document(step()))
    assert again.calls == 0
    assert same(before.finished, again.finished)
