"""Results on a full disk are never half written, and the error is the disk's."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.dialect.plan import ResultSpec
from app.dialect.result_kinds import RESULT_KINDS
from app.engine.request_cache import RequestCache, RequestResults
from app.errors import ResultError
from app.outputs import OutputStore, naming_disk_errors, replacing
from app.worker.results import writer_of
from tests.full_disk import full_disk

NOISE = np.random.default_rng(0)
PICTURE = Image.fromarray(NOISE.integers(0, 255, (256, 256, 3), dtype=np.uint8))
FILM = NOISE.random((12, 128, 128, 3), dtype=np.float32)
SOUND = NOISE.random((2, 400_000), dtype=np.float32)
ARTIFACTS: dict[str, Any] = {
    "image": PICTURE,
    "image/gif": FILM,
    "video": FILM,
    "audio": SOUND,
    "text": "x" * 100_000,
    "application": ["x" * 100_000],
}


@pytest.mark.parametrize("content_type", RESULT_KINDS)
def test_result_on_a_full_disk_leaves_nothing_and_names_the_folder(
    tmp_path: Path, content_type: str
):
    kind = content_type.partition("/")[0]
    artifact = ARTIFACTS.get(content_type, ARTIFACTS[kind])
    path = tmp_path / f"a{RESULT_KINDS[content_type].suffix}"
    spec = ResultSpec(content_type=content_type)
    with (
        pytest.raises(ResultError) as caught,
        naming_disk_errors(tmp_path),
        full_disk(max_bytes=5000),
        OutputStore(tmp_path).new_result(path, {}) as file,
    ):
        writer_of(RESULT_KINDS[content_type])(artifact, file, {}, spec)
    assert caught.value.message == f"Results cannot be written to '{tmp_path}': the disk is full."
    assert "Make room" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def write_twice(path: Path) -> None:
    """Writes twice as PyAV does where a container can go on without a part."""
    with replacing(path) as file:
        for _ in range(2):
            with contextlib.suppress(OSError):
                file.write(bytes(1000))
                file.flush()


def test_encoder_that_ignores_write_error_leaves_no_file(tmp_path: Path):
    with full_disk(max_bytes=10), pytest.raises(OSError, match="large"):
        write_twice(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def write_and_fail(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"half")
        raise ValueError("its own")


def test_encoder_error_is_not_a_disk_error(tmp_path: Path):
    with pytest.raises(ValueError, match="its own"):
        write_and_fail(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["gone", "file"])
def test_missing_outputs_folder_is_reported(tmp_path: Path, folder: str):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResultError, match="has gone, or is no folder"),
        naming_disk_errors(tmp_path / folder),
        replacing(tmp_path / folder / "a.png"),
    ):
        pass


def test_request_cache_write_error_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    remembered = RequestCache(tmp_path)
    made = RequestResults(made_at=1.0, results=(), outputs=("x" * 10_000,))
    with caplog.at_level(logging.WARNING), full_disk():
        remembered.note("key", made)
    assert "could not be cached" in caplog.text
    assert remembered.find("key") is None
    remembered.note("key", made)
    assert remembered.find("key") == made
