"""The mask editor with data of browsers and hand-made calls; real components in their own process,
as Gradio leaves event loops behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.settings import PROJECT
from tests.media.test_images import EPS, png_that_says

START = """
import json, os, resource, sys
from pathlib import Path
uploads = Path(os.environ["GRADIO_TEMP_DIR"])
import gradio as gr
from fastapi import HTTPException
from gradio.components.image_editor import EditorData
from gradio.data_classes import DataWithFiles, FileData
from app.errors import InvalidInputs
from app.settings import PathSettings
from app.ui.form import build_form, read_form
from app.dialect.document import InputBlock
from app.dialect.inputs import input_specs

asked = input_specs({"image": None, "mask": None},
                    {"image": InputBlock(), "mask": InputBlock(mask_of="image")})
with gr.Blocks():
    (field,) = build_form(asked, {})
editor, paths = field.component, PathSettings(media=(uploads,))

def sent(name, *layers):
    file = lambda name: FileData(path=str(uploads / name))
    return EditorData(background=name and file(name), layers=[file(each) for each in layers],
                      composite=name and file(name))

def inputs(payload):
    try:
        return read_form([field], [editor.preprocess(payload)], paths)
    except InvalidInputs as error:
        return [error.message, *(f"{each.place}: {each.message}" for each in error.problems)]

def blob(part, index, number, content):
    try:
        editor.accept_blobs(DataWithFiles(data={"type": part, "index": index, "id": number},
                                          files=[("blob", content)]))
    except HTTPException as error:
        return error.status_code
    return 200

"""


def said(uploads: Path, script: str, **environment: str) -> Any:
    """Returns the script's output, parsed as JSON."""
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(uploads), **environment}
    run = subprocess.run(
        [sys.executable, "-c", START + script], cwd=PROJECT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def program(folder: Path, *names: str) -> Path:
    """Creates a folder of programs of these names; each leaves a file when it is started."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\ntouch '{folder}/{name} was started'\nexit 1\n")
        (folder / name).chmod(0o755)
    return folder


def test_dangerous_image_is_refused_in_editor(uploads: Path, tmp_path: Path):
    """97 million pixels in a few bytes, and PostScript by another name, as the image and as the
    painting."""
    (uploads / "bomb.png").write_bytes(png_that_says(9900, 9800))
    (uploads / "script.png").write_bytes(EPS)
    Image.new("RGB", (8, 8)).save(uploads / "plain.png")
    programs = program(tmp_path / "bin", "gs")
    found = said(
        uploads,
        """
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = [inputs(sent("bomb.png")), inputs(sent("plain.png", "bomb.png")),
        inputs(sent("script.png")), inputs(sent("plain.png", "script.png"))]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([grown / (1 if sys.platform == "darwin" else 1024), *told]))
""",
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
    )
    grown_mib, *told = found
    refused = "The picture in the editor cannot be used."
    assert [(each[0], each[1].partition(" (")[0]) for each in told] == [
        (refused, "inputs.image: 'bomb.png' has 9900x9800 pixels; 32 million fit"),
        (refused, "inputs.mask: 'bomb.png' has 9900x9800 pixels; 32 million fit"),
        (refused, "inputs.image: 'script.png' cannot be read as a picture: its content is of no"
         " known kind"),
        (refused, "inputs.mask: 'script.png' cannot be read as a picture: its content is of no"
         " known kind"),
    ]  # fmt: skip
    assert [path.name for path in programs.iterdir()] == ["gs"]
    assert grown_mib < 30, "9900x9800 pixels are 277 MiB"


def test_editor_obeys_pixel_limit_setting(uploads: Path):
    Image.new("RGB", (8, 8)).save(uploads / "small.png")
    Image.new("RGB", (9, 8)).save(uploads / "large.png")
    found = said(
        uploads,
        """
from app.settings import MediaLimits
paths = PathSettings(media=(uploads,), limits=MediaLimits(max_picture_pixels=64))
print(json.dumps([inputs(sent("small.png")), inputs(sent("large.png")),
                  inputs(sent("small.png", "large.png"))]))
""",
    )
    taken, *refused = found
    assert taken == {"image": str(uploads / "small.png")}
    assert [each[1].partition(" pixels")[0] for each in refused] == [
        "inputs.image: 'large.png' has 9x8", "inputs.mask: 'large.png' has 9x8",
    ]  # fmt: skip


def test_painting_becomes_mask_and_transparency_white(uploads: Path):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.save(uploads / "clear.png")
    Image.new("RGB", (8, 8), "red").save(uploads / "solid.png")
    layer = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    layer.putpixel((2, 3), (255, 45, 149, 255))
    layer.putpixel((3, 3), (255, 45, 149, 60))
    layer.save(uploads / "layer.png")
    found = said(
        uploads,
        """
print(json.dumps([inputs(sent("clear.png", "layer.png")), inputs(sent("clear.png", "layer.png")),
                  inputs(sent("solid.png", "clear.png")), inputs(None), inputs(sent(None))]))
""",
    )
    painted, again, blank, *nothing = found
    assert painted == again, "the same picture is the same file"
    with Image.open(painted["image"]) as shown, Image.open(painted["mask"]) as mask:
        assert (shown.mode, shown.getpixel((4, 4))) == ("RGB", (255, 255, 255))
        assert np.argwhere(np.asarray(mask)).tolist() == [[3, 2]]
    assert (blank, nothing) == ({"image": str(uploads / "solid.png")}, [{}, {}])


def test_images_sent_by_browser_are_written_to_files(uploads: Path, tmp_path: Path):
    layer = Image.new("RGBA", (8, 8), "red")
    layer.save(tmp_path / "layer.png")
    found = said(
        uploads,
        f"""
content = Path({str(tmp_path / "layer.png")!r}).read_bytes()
codes = [blob(part, index, "one", content)
         for part, index in [("background", "null"), ("layer", 0), ("composite", None)]]
codes += [blob("layer", 10**9, "one", content), blob("other", 0, "one", content)]
for number in range(40):
    blob("background", "null", str(number), content)
given = inputs(EditorData(id="39"))
print(json.dumps([codes, given, inputs(EditorData(id="one")), inputs(EditorData(id="39"))]))
""",
    )
    codes, given, forgotten, read_twice = found
    assert codes == [200, 200, 200, 400, 400]
    assert Path(given["image"]).read_bytes() == (tmp_path / "layer.png").read_bytes()
    assert (forgotten, read_twice) == ({}, {})
    assert len(list(uploads.glob("painted-*"))) == 1


def test_editor_opens_only_uploads_and_results(uploads: Path, tmp_path: Path):
    Image.new("RGBA", (8, 8), "red").save(tmp_path / "private.png")
    Image.new("RGB", (8, 8)).save(uploads / "plain.png")
    found = said(
        uploads,
        """
print(json.dumps([inputs(sent("../private.png")), inputs(sent("plain.png", "../private.png")),
                  inputs(sent("plain.png", *["plain.png"] * 1000))]))
""",
    )
    assert [each[1].partition(": ")[::2] for each in found] == [
        ("inputs.image", "The picture has to be uploaded; a path is not taken."),
        ("inputs.mask", "The picture has to be uploaded; a path is not taken."),
        ("inputs.mask", "9 layers are painted; 8 are the most."),
    ]


def test_videos_and_audio_are_shown_without_ffmpeg(uploads: Path, tmp_path: Path):
    """Gradio would let FFmpeg examine them, which follows playlists."""
    for name in ("a.mp4", "a.wav"):
        (uploads / name).write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")
    programs = program(tmp_path / "bin", "ffmpeg", "ffprobe")
    found = said(
        uploads,
        """
from app.ui.uploads import pass_media_on
pass_media_on()
blocks = {name: InputBlock() for name in ("video", "audio")}
asked = input_specs(dict.fromkeys(blocks), blocks)
with gr.Blocks():
    fields = build_form(asked, {"video": str(uploads / "a.mp4"), "audio": str(uploads / "a.wav")})
values = [field.component.value for field in fields]
print(json.dumps([each if isinstance(each, str) else each["path"] for each in values]))
""",
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
    )
    assert [Path(path).name for path in found] == ["a.mp4", "a.wav"]
    assert sorted(path.name for path in programs.iterdir()) == ["ffmpeg", "ffprobe"]
