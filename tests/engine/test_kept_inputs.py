"""Uploads of a run are kept by content beside the results."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.dialect.plan import Plan
from app.engine.kept_inputs import FOLDER, with_kept_inputs
from app.errors import ResultError
from app.planning.plan_media import media_files
from app.planning.planner import make_plan
from app.settings import SHIPPED_WORKFLOWS, PathSettings


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


def a_plan(uploads: Path, picture: Path) -> Plan:
    paths = PathSettings(media=(uploads, picture.parent))
    inputs = {"image": str(picture)}
    return make_plan(SHIPPED_WORKFLOWS / "variations.json", inputs, paths=paths, seed=1)


def a_picture(folder: Path, name: str = "picture.PNG") -> Path:
    Image.new("RGB", (32, 32), "red").save(folder / name)
    return folder / name


def test_upload_is_kept_under_its_hash(tmp_path: Path, uploads: Path):
    picture = a_picture(uploads)
    plan = with_kept_inputs(a_plan(uploads, picture), uploads, tmp_path / "outputs")
    ((path, sha256),) = media_files(plan).items()
    assert Path(path) == tmp_path / "outputs" / FOLDER / f"{sha256}.png"
    assert plan.inputs["image"] == path
    content = picture.read_bytes()
    picture.unlink()
    assert Path(path).read_bytes() == content


def test_equal_uploads_share_one_file(tmp_path: Path, uploads: Path):
    for name in ("one.png", "two.png"):
        plan = a_plan(uploads, a_picture(uploads, name))
        with_kept_inputs(plan, uploads, tmp_path / "outputs")
    assert len(list((tmp_path / "outputs" / FOLDER).iterdir())) == 1


def test_other_files_are_not_kept(tmp_path: Path, uploads: Path):
    (tmp_path / "own").mkdir()
    plan = a_plan(uploads, a_picture(tmp_path / "own"))
    assert with_kept_inputs(plan, uploads, tmp_path / "outputs") is plan
    assert not (tmp_path / "outputs").exists()


def test_unwritable_folder_is_a_sentence(tmp_path: Path, uploads: Path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / FOLDER).write_text("in the way")
    plan = a_plan(uploads, a_picture(uploads))
    with pytest.raises(ResultError, match=FOLDER):
        with_kept_inputs(plan, uploads, tmp_path / "outputs")
