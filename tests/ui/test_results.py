"""How a result of each kind is shown."""

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
def test_each_kind_has_its_element_and_can_be_downloaded(
    content_type: str, name: str, element: str
):
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
def test_every_kind_of_result_has_a_tile_in_the_strip(
    content_type: str, name: str, text: str, tile: str
):
    shown = markup.strip([saved(content_type, name, text)])
    assert tile in shown
    assert len(shown) < 400


def test_a_tile_names_its_result_for_who_cannot_see_it():
    tiles = markup.strip([saved("image/png", "b.png"), saved("image/png", "a.png")])
    assert "data-index='1'" in tiles
    assert "aria-label='Result 2, seed 7'" in tiles


def test_a_removed_record_leaves_a_result_without_one(tmp_path: Path):
    result = saved("image/png", "a.png").model_copy(update={"sidecar": str(tmp_path / "a.json")})
    assert record_of(result) is None
    (tmp_path / "a.json").write_text('{"seed": 7}')
    assert record_of(result) == {"seed": 7}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "image"), ("a.mp4", "video"), ("a.wav", "audio"), ("a.tiff", None), ("a.txt", None)],
)
def test_a_result_can_be_the_input_that_its_file_is_taken_for(name: str, kind: str | None):
    assert media_kind(saved("", name)) == kind


def test_a_task_tells_that_it_computes_and_how_far_it_is():
    view = advance(RunView(run_id="r"), PhaseChanged(**RUN, step="do", phase="computing"))
    assert view.status == "Computing"
    view = advance(view, StepProgress(**RUN, step="do", done=1, total=2, seconds_left=None))
    assert (view.status, view.fraction) == ("Step 1 of 2", 0.55)
    view = advance(view, RunCancelled(**RUN, phase="computing"))
    assert view.status == "Cancelled while computing"
