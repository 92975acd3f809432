"""A full disk costs a run its files only: the worker stays warm."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.engine import Engine
from app.protocol import RunFailed, StepRemembered
from app.worker.device import Device
from tests.engines import run, started_engine
from tests.full_disk import full_disk
from tests.worker.bench import Bench, document, step

PATIENCE_S = 60.0


class Lines(logging.Handler):
    """Log lines to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._grown = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._grown:
            self._text += record.getMessage() + "\n"
            self._grown.notify_all()

    def wait_for(self, text: str) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: text in self._text, PATIENCE_S), self._text


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logging.getLogger().addHandler(handler)
    try:
        yield handler
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def engine(outputs: Path) -> Iterator[Engine]:
    """An engine with a real worker process."""
    with started_engine(outputs) as engine:
        yield engine


def pid_of(engine: Engine) -> int:
    pid = engine.status().pid
    assert pid is not None
    return pid


def test_full_disk_fails_run_with_a_sentence_and_keeps_components(
    engine: Engine, outputs: Path, shipped_workflows: Path, lines: Lines
):
    workflow, inputs = shipped_workflows / "text-to-image.json", {"prompt": "a red circle"}
    assert run(engine, workflow, inputs, seed=1).success
    pid = pid_of(engine)
    with full_disk(pid):
        failed = run(engine, workflow, inputs | {"prompt": "a blue star"}, seed=2)
        # The worker is idle now and writes the embeddings.
        lines.wait_for("Prompt embeddings could not be written")
    assert isinstance(failed.terminal, RunFailed)
    assert failed.terminal.error.kind == "ResultError"
    assert failed.terminal.error.message == (
        f"Results cannot be written to '{outputs}': the disk is full."
    )
    assert not any((outputs / failed.run_id).iterdir())
    again = run(engine, workflow, inputs | {"prompt": "a blue star"}, seed=2, fresh=False)
    assert again.success.loaded == ()
    assert any(isinstance(event, StepRemembered) for event in again.events)
    assert pid_of(engine) == pid


@pytest.mark.parametrize("as_file", [False, True])
def test_vanished_outputs_folder_does_not_end_worker(
    engine: Engine, outputs: Path, shipped_workflows: Path, as_file: bool
):
    workflow, inputs = shipped_workflows / "text-to-image.json", {"prompt": "a red circle"}
    assert run(engine, workflow, inputs, seed=3).success
    pid = pid_of(engine)
    # Answered when the engine has stored the run's results.
    engine.needed()
    shutil.rmtree(outputs)
    if as_file:
        outputs.write_text("")
        failed = run(engine, workflow, inputs, seed=4).terminal
        outputs.unlink()
        assert isinstance(failed, RunFailed)
        assert "is no folder" in failed.error.message
    assert run(engine, workflow, inputs, seed=5).success.loaded == ()
    assert pid_of(engine) == pid


def half(model: Path) -> dict[str, object]:
    """A document whose weights are converted at load time."""
    return document(step(model=model, loading={"torch_dtype": "torch.bfloat16"}))


def test_converted_weights_on_a_full_disk_are_only_logged(
    bench: Bench, model: Path, caplog: pytest.LogCaptureFixture
):
    assert bench.run(half(model)).success
    # Room for the text files only, so that the weights' library meets the limit.
    with caplog.at_level(logging.WARNING), full_disk(max_bytes=4096):
        bench.runner.clean_up()
    told = [text for text in caplog.messages if "could not be cached" in text]
    assert len(told) == 4, "each for itself: unet, vae, text encoder and safety checker"
    assert all(text.startswith("The converted ") for text in told)
    assert not list((bench.folder / "outputs" / ".weights").rglob("*.safetensors"))
    assert bench.run(half(model)).success.loaded == ()


class Stuck(Device):
    """A device that never returns, as after a CUDA error."""

    def tidy(self) -> None:
        raise RuntimeError("an illegal memory access was encountered")


def test_failing_clean_up_keeps_components_warm(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
):
    bench = Bench(tmp_path, Stuck("cpu"))
    assert bench.run(half(model)).success
    with caplog.at_level(logging.WARNING):
        bench.runner.clean_up()
    assert "Memory could not be given back: RuntimeError: an illegal memory access" in caplog.text
    assert list((tmp_path / "outputs" / ".weights").rglob("*.safetensors")), "the rest is done"
    assert bench.run(half(model)).success.loaded == ()


def test_embeddings_on_a_full_disk_are_only_logged_when_the_worker_ends(
    bench: Bench, model: Path, caplog: pytest.LogCaptureFixture
):
    assert bench.run(half(model)).success
    with caplog.at_level(logging.WARNING), full_disk():
        bench.runner.prompts.flush()
    assert "Prompt embeddings could not be written" in caplog.text


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (shutil.rmtree(folder, ignore_errors=True), folder.write_text("")),
    "gone": lambda folder: shutil.rmtree(folder, ignore_errors=True),
}


@pytest.mark.parametrize("name", [".weights", ".embeddings", ".previews"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_cache_folder_does_not_fail_run(
    bench: Bench, model: Path, name: str, damage: Callable[[Path], object]
):
    assert bench.run(half(model)).success
    bench.runner.clean_up()
    damage(bench.folder / "outputs" / name)
    bench.free()
    assert bench.run(half(model)).success
    bench.runner.clean_up()
    assert bench.run(half(model)).success
