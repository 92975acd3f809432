"""How a result of each kind is shown."""

from __future__ import annotations

import pytest

from app.protocol import PhaseChanged, ResultSaved, RunCancelled, StepProgress
from app.ui import markup
from app.ui.run_view import RunView, advance

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


def test_only_pictures_and_videos_are_for_the_strip():
    seen = {kind: saved(kind, "x").is_visual for kind in (
        "image/webp", "image/gif", "image/tiff", "video/mp4", "audio/wav", "text/plain",
        "application/json")}  # fmt: skip
    shown = [kind for kind, visual in seen.items() if visual]
    assert shown == ["image/webp", "image/gif", "video/mp4"]


def test_a_task_tells_that_it_computes_and_how_far_it_is():
    view = advance(RunView(run_id="r"), PhaseChanged(**RUN, step="do", phase="computing"))
    assert view.status == "Computing"
    view = advance(view, StepProgress(**RUN, step="do", done=1, total=2, seconds_left=None))
    assert (view.status, view.fraction) == ("Step 1 of 2", 0.55)
    view = advance(view, RunCancelled(**RUN, phase="computing"))
    assert view.status == "Cancelled while computing"
