"""HTML of each kind of result."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.protocol import PhaseChanged, ResultSaved, RunCancelled, StepProgress
from app.run_view import RunView, advance
from app.ui import markup
from app.ui.outcome import media_kind, record_of

RUN = {"run_id": "20260101-000000-abcdef", "time": 1.0}


def saved(content_type: str, name: str, text: str = "") -> ResultSaved:
    return ResultSaved(
        **RUN,
        step="do",
        path=f"/runs/{name}",
        sidecar=f"/runs/{name}.json",
        content_type=content_type,
        seed=7,
        index=0,
        final=True,
        text=text,
    )


@pytest.mark.parametrize(
    ("content_type", "name", "element"),
    [
        ("image/png", "a.png", "<img class='result'"),
        ("video/mp4", "a.mp4", "<video src="),
        ("audio/flac", "a.flac", "<audio src='gradio_api/file=/runs/a.flac' controls>"),
        ("video/x-msvideo", "a.avi", "a.avi: browsers do not open such a file"),
        ("text/plain", "a.txt", "<pre>a &lt;b&gt;</pre>"),
        ("application/json", "a.json", "<pre>a &lt;b&gt;</pre>"),
    ],
)
def test_result_of_each_kind_has_element_and_download(content_type: str, name: str, element: str):
    shown = markup.picture(saved(content_type, name, "a <b>"))
    assert element in shown
    assert f"download='{name}'" in shown


@pytest.mark.parametrize(
    ("content_type", "name", "text", "tile"),
    [
        ("image/webp", "a.webp", "", "<img src='gradio_api/file=/runs/a.webp' alt=''>"),
        ("image/gif", "a.gif", "", "<img src="),
        ("video/mp4", "a.mp4", "", "<video src="),
        ("image/tiff", "a.tiff", "", "<span>TIFF</span>"),
        ("audio/wav", "a.wav", "", "<span>WAV</span>"),
        ("text/plain", "a.txt", "<b> " + "long " * 99, "<span>&lt;b&gt; long long"),
        ("application/json", "a.json", "", "<span>JSON</span>"),
    ],
)
def test_result_of_each_kind_has_tile(content_type: str, name: str, text: str, tile: str):
    shown = markup.strip([saved(content_type, name, text)])
    assert tile in shown
    assert len(shown) < 400


def test_tile_has_accessible_name():
    tiles = markup.strip([saved("image/png", "b.png"), saved("image/png", "a.png")])
    assert "data-index='1'" in tiles
    assert "aria-label='Result 2, seed 7'" in tiles


def test_result_without_record_is_shown(tmp_path: Path):
    result = saved("image/png", "a.png").model_copy(update={"sidecar": str(tmp_path / "a.json")})
    assert record_of(result) is None
    (tmp_path / "a.json").write_text('{"seed": 7}')
    assert record_of(result) == {"seed": 7}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "image"), ("a.mp4", "video"), ("a.wav", "audio"), ("a.tiff", None), ("a.txt", None)],
)
def test_result_may_be_input_of_its_kind(name: str, kind: str | None):
    assert media_kind(saved("", name)) == kind


def test_task_shows_progress():
    view = advance(RunView(run_id="r"), PhaseChanged(**RUN, step="do", phase="computing"))
    assert view.status == "Computing"
    view = advance(view, StepProgress(**RUN, step="do", done=1, total=2, seconds_left=None))
    assert (view.status, view.fraction) == ("Step 1 of 2", 0.55)
    view = advance(view, RunCancelled(**RUN, phase="computing"))
    assert view.status == "Cancelled while computing"
