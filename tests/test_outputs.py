"""Output files: complete, with unique names, each with its record."""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.dialect.document import ResultBlock
from app.dialect.plan import ResultSpec
from app.dialect.result_kinds import RESULT_KINDS
from app.errors import ResultError
from app.outputs import (
    OutputStore,
    Record,
    reference_to_sidecar,
    replacing,
    sidecar_bytes,
    sidecar_of,
)  # fmt: skip
from app.worker.results import Save, writer_of
from app.worker.results.image import save_jpeg, save_png, save_webp
from app.worker.results.video import save_video
from tests.worker.results.files import read_record

RUN = "20260101-000000-abcdef"
OLDER = "20251231-235959-000000"
RECORD = {
    "seed": 2**63,
    "inputs": {"prompt": 'ein roter Kreis – 赤い円 🔴\n"quoted"'},
    "workflow": {"id": "drawing", "steps": []},
}
PICTURES: dict[str, Callable[..., tuple[int, int]]] = {
    ".png": save_png,
    ".jpg": save_jpeg,
    ".webp": save_webp,
}


@pytest.fixture
def store(tmp_path: Path) -> OutputStore:
    return OutputStore(tmp_path / "outputs")


def picture(mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (12, 8))


def spec(content_type: str = "image/png", **options: Any) -> ResultSpec:
    return ResultSpec(content_type=content_type, **options)


def written(save: Save, artifact: Any, path: Path, record: Record, spec: ResultSpec) -> Any:
    """Returns what `save` returns."""
    with replacing(path) as file:
        return save(artifact, file, record, spec)


# --- names ---------------------------------------------------------------------------------------


def test_result_names_are_unique(store: OutputStore):
    names = []
    for _ in range(3):
        path = store.new_file(RUN, "drawing", ".png")
        path.touch()
        names.append(path.name)
    assert names == ["drawing.png", "drawing-2.png", "drawing-3.png"]


def test_run_has_its_own_folder(store: OutputStore):
    assert store.new_file(RUN, "a", ".png").parent == store.root / RUN
    assert (store.root / RUN).is_dir()


@pytest.mark.parametrize("run", ["", "..", "a/b", f"{RUN}/..", f"../{RUN}", f"{RUN}\n", "/etc"])
def test_only_run_id_names_a_folder(store: OutputStore, run: str):
    for call in (store.run_folder, store.delete, lambda name: store.new_file(name, "a", ".png")):
        with pytest.raises(ValueError, match="is not the id of a run"):
            call(run)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("../../up", "up.png"),
        ("a/b\\c d", "a_b_c_d.png"),
        ("sub/draw", "sub_draw.png"),
        ("..", "result.png"),
        ("", "result.png"),
        (".hidden", "hidden.png"),
        ("Füße", "Füße.png"),
    ],
)
def test_result_name_cannot_leave_folder(store: OutputStore, stem: str, name: str):
    assert store.new_file(RUN, stem, ".png").name == name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_result_of_any_name_is_in_run_folder(store: OutputStore, stem: str):
    path = store.new_file(RUN, stem, ".png")
    assert path.resolve().parent == store.root / RUN
    assert not path.name.startswith(".")


@pytest.mark.parametrize("letter", ["x", "ß", "絵", "𓀀"])
def test_long_name_is_cut(store: OutputStore, letter: str):
    path = store.new_file(RUN, letter * 300, ".png")
    written(save_png, picture(), path, RECORD, spec())
    store.write_sidecar(path, RECORD)
    again = store.new_file(RUN, letter * 300, ".png")
    assert again != path
    written(save_png, picture(), again, RECORD, spec())


# --- runs ----------------------------------------------------------------------------------------


def test_only_runs_are_listed_newest_first(store: OutputStore):
    assert store.runs() == []
    for run in (OLDER, RUN):
        store.new_file(run, "a", ".png")
    (store.root / "other").mkdir()
    (store.root / "20260101-000000-aaaaaa").touch()
    assert store.runs() == [RUN, OLDER]


def test_deleting_run_keeps_others(store: OutputStore):
    for run in (OLDER, RUN):
        store.new_file(run, "a", ".png").touch()
    store.delete(RUN)
    store.delete(RUN)
    assert store.runs() == [OLDER]


# --- whole files ---------------------------------------------------------------------------------


def test_file_appears_only_when_complete(tmp_path: Path):
    path = tmp_path / "a.bin"
    with replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [OSError, KeyboardInterrupt])
def test_interrupted_write_keeps_old_file(tmp_path: Path, interruption: type[BaseException]):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_result_is_readable_by_others(tmp_path: Path):
    with replacing(tmp_path / "a.bin") as file:
        file.write(b"x")
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644


# --- records -------------------------------------------------------------------------------------


def test_record_is_beside_result(store: OutputStore):
    path = store.new_file(RUN, "a", ".png")
    sidecar = store.write_sidecar(path, RECORD)
    assert (sidecar.name, sidecar) == ("a.png.json", sidecar_of(path))
    assert json.loads(sidecar.read_bytes()) == RECORD


def test_result_appears_only_with_its_record(store: OutputStore):
    """A folder in place of one of the two stops it there, as a kill in between would."""
    for blocked in (sidecar_of, Path):
        path = store.new_file(RUN, "a", ".png")
        blocked(path).mkdir()
        with pytest.raises(IsADirectoryError), store.new_result(path, RECORD) as file:
            file.write(b"a picture")
        assert [each.name for each in path.parent.iterdir() if each.is_file()] == []
        blocked(path).rmdir()


def test_result_and_record_appear_together_when_the_result_is_whole(store: OutputStore):
    path = store.new_file(RUN, "a", ".png")
    with store.new_result(path, RECORD) as file:
        file.write(b"a picture")
        assert not path.exists()
        assert not sidecar_of(path).exists()
    assert sorted(path.parent.iterdir()) == [path, sidecar_of(path)]
    assert json.loads(sidecar_of(path).read_bytes()) == RECORD


@pytest.mark.parametrize("suffix", PICTURES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_image_contains_complete_record(tmp_path: Path, suffix: str, mode: str):
    path = tmp_path / f"a{suffix}"
    assert written(PICTURES[suffix], picture(mode), path, RECORD, spec()) == (12, 8)
    assert read_record(path) == RECORD
    with Image.open(path) as read:
        read.load()
        assert read.size == (12, 8)


def test_png_keeps_every_pixel(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    written(save_png, Image.fromarray(pixels), tmp_path / "a.png", RECORD, spec())
    with Image.open(tmp_path / "a.png") as read:
        assert np.array_equal(np.asarray(read), pixels)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text()), max_size=3))
def test_any_record_is_read_back(tmp_path: Path, record: dict[str, Any]):
    for suffix, save in PICTURES.items():
        path = tmp_path / f"a{suffix}"
        written(save, picture(), path, record, spec())
        assert read_record(path) == record


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_too_large_record_is_referenced_with_hash(store: OutputStore, suffix: str):
    record = {**RECORD, "long": "x" * 100_000}
    path = store.new_file(RUN, "a", suffix)
    written(PICTURES[suffix], picture(), path, record, spec())
    sidecar = store.write_sidecar(path, record)
    digest = hashlib.sha256(sidecar.read_bytes()).hexdigest()
    assert read_record(path) == {"sidecar": sidecar.name, "sidecar_sha256": digest}
    assert read_record(path) == reference_to_sidecar(path, record)
    assert sidecar.read_bytes() == sidecar_bytes(record)


def test_png_contains_large_record(tmp_path: Path):
    record = {"long": "x" * 3_000_000}
    written(save_png, picture(), tmp_path / "a.png", record, spec())
    assert read_record(tmp_path / "a.png") == record


@pytest.mark.parametrize("suffix", [*PICTURES, ".gif", ".bmp"])
def test_foreign_image_has_no_record(tmp_path: Path, suffix: str):
    picture().save(tmp_path / f"a{suffix}")
    assert read_record(tmp_path / f"a{suffix}") is None


def test_foreign_comment_is_no_record(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\x00\x00\x00a holiday"
    picture().save(tmp_path / "a.jpg", exif=exif)
    assert read_record(tmp_path / "a.jpg") is None


@pytest.mark.parametrize("suffix", PICTURES)
def test_non_image_is_refused_and_leaves_no_file(tmp_path: Path, suffix: str):
    with pytest.raises(ResultError, match="cannot be saved as a picture: a text is not a picture"):
        PICTURES[suffix]("text", tmp_path / f"a{suffix}", RECORD, spec())
    assert list(tmp_path.iterdir()) == []


# --- videos --------------------------------------------------------------------------------------


def frames(count: int, width: int, height: int) -> np.ndarray:
    return np.linspace(0, 1, count * height * width * 3).reshape(count, height, width, 3)


def test_video_has_frames_rate_and_record(tmp_path: Path):
    path = tmp_path / "a.mp4"
    assert written(save_video, frames(5, 32, 16), path, RECORD, spec("video/mp4", fps=12)) == (
        32,
        16,
    )
    with av.open(str(path)) as video:
        (stream,) = video.streams.video
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 12)
        assert stream.codec_context.pix_fmt == "yuv420p"
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        assert json.loads(video.metadata["comment"]) == RECORD
    assert [frame.shape for frame in shown] == [(16, 32, 3)] * 5
    assert shown[0].mean() < 60
    assert shown[-1].mean() > 195


def test_same_frames_make_same_video_on_busy_machine(tmp_path: Path):
    rng = np.random.default_rng(0)
    ground = np.kron(rng.random((16, 20, 3)), np.ones((16, 16, 1)))
    film = [ground * 0.8 + 0.2 * rng.random(ground.shape) for _ in range(5)]

    def film_file(number: int) -> bytes:
        path = tmp_path / f"{number}.mp4"
        written(save_video, film, path, RECORD, spec("video/mp4"))
        return path.read_bytes()

    first, over = film_file(0), threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            zlib.compress(first, 9)

    with ThreadPoolExecutor(4) as others:
        for _ in range(4):
            others.submit(keep_busy)
        try:
            # With AVX-512 one in four was another: twenty that are alike by chance are one in 300.
            assert {film_file(number) for number in range(20)} == {first}
        finally:
            over.set()


@pytest.mark.parametrize("form", ["pictures", "bytes", "floats"])
def test_frames_may_be_images_or_arrays(tmp_path: Path, form: str):
    numbers = frames(2, 16, 16)
    as_bytes = (numbers * 255).astype(np.uint8)
    made = {
        "pictures": [Image.fromarray(frame) for frame in as_bytes],
        "bytes": as_bytes,
        "floats": numbers,
    }
    written(save_video, made[form], tmp_path / "a.mp4", RECORD, spec("video/mp4"))
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 2


def test_odd_sides_are_cropped_to_even(tmp_path: Path):
    assert written(
        save_video, frames(2, 33, 17), tmp_path / "a.mp4", RECORD, spec("video/mp4")
    ) == (32, 16)


@pytest.mark.parametrize("artifact", [[], np.zeros((3, 4))], ids=["none", "flat"])
def test_non_video_is_refused_and_leaves_no_file(tmp_path: Path, artifact: Any):
    with pytest.raises(ResultError, match="no frames to save"):
        written(save_video, artifact, tmp_path / "a.mp4", RECORD, spec("video/mp4"))
    assert list(tmp_path.iterdir()) == []


def test_every_content_type_can_be_written():
    named = set(ResultBlock.model_json_schema()["properties"]["content_type"]["enum"])
    assert named == set(RESULT_KINDS)
    assert all(callable(writer_of(kind)) for kind in RESULT_KINDS.values())
