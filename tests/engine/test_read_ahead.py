"""The next run's weights are read into the page cache while a run computes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from app.engine.read_ahead import has_room
from tests.engine.bench import PATIENCE_S, Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in its cache")


def is_cached(file: Path) -> bool:
    """Returns whether the whole file is in the page cache."""
    size = file.stat().st_size
    opened = os.open(file, os.O_RDONLY)
    try:
        read, buffer = 0, bytearray(1 << 20)
        while read < size:
            read += os.preadv(opened, [buffer], read, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("the file system cannot be asked what is cached")
        if error.errno != errno.EAGAIN:
            raise
        return False
    finally:
        os.close(opened)
    return True


def forget(file: Path) -> None:
    """Drops the file from the page cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if is_cached(file):
        pytest.skip("the file system keeps its files in memory")


@pytest.fixture
def large(workflow: Path, shapes_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A workflow, and its model's weights, which are not in the page cache."""
    document = json.loads(workflow.read_text())
    shutil.copytree(shapes_model, tmp_path / "large")
    document["steps"][0]["pipeline"]["from_pretrained_arguments"]["model_name"] = "./large"
    file = tmp_path / "large.json"
    file.write_text(json.dumps(document))
    weights = tmp_path / "large" / "unet" / "diffusion_pytorch_model.safetensors"
    forget(weights)
    return file, weights


def test_read_ahead_makes_next_load_read_nothing_from_disk(bench: Bench, large: tuple[Path, Path]):
    file, weights = large
    gate = bench.gate()
    first = bench.underway(f"wait for {gate}")
    following = bench.engine.submit(file, {"prompt": f"read {weights}"})
    until = time.monotonic() + PATIENCE_S
    while not is_cached(weights):
        assert time.monotonic() < until
        time.sleep(0.01)
    gate.touch()
    assert bench.finish(first).success
    assert bench.finish(following).success.outputs == ("0",)


def test_read_ahead_skips_weights_that_do_not_fit():
    assert has_room(10, 20)
    assert not has_room(11, 20)
