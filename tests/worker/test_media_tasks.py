"""Video and audio files in tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from app.errors import InvalidWorkflow
from app.protocol import Event, RunCancelled, StepProgress
from tests.media.films import film, tone
from tests.worker.bench import Bench, document


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def doing(command: str, saved_as: str | None = None, name: str = "do", **arguments: Any) -> Any:
    step = {"name": name, "task": {"command": command, "arguments": arguments}}
    return step if saved_as is None else {**step, "result": {"content_type": saved_as}}


def test_videos_are_gathered_and_joined_with_their_audio(bench: Bench):
    for name in ("a", "b"):
        film(bench.folder / f"{name}.mp4", seconds_of_sound=0.5)
    gather = doing("gather_videos", name="gather", glob="*.mp4")
    first = doing("get_first_frame", "image/png", "first", video="previous_result:gather")
    join = doing(
        "concat_videos", "video/mp4", "join", videos=["a.mp4", {"location": "b.mp4"}], fps=8
    )
    finished = bench.run(document(gather, first, join))
    assert finished.success
    assert [result.content_type for result in finished.results] == ["image/png"] * 2 + ["video/mp4"]


def test_audio_file_is_sliced_and_paired_with_video(bench: Bench):
    film(bench.folder / "film.mkv")
    tone(bench.folder / "tone.wav", seconds=1.0)
    cut = doing("slice_audio", name="cut", audio="tone.wav", start_seconds=0, duration_seconds=0.5)
    pair = doing(
        "pair_audio", "video/mp4", "pair", video={"location": "film.mkv"},
        audio="previous_result:cut", sample_rate=8000,
    )  # fmt: skip
    assert bench.run(document(cut, pair)).success


def test_interpolated_video_keeps_audio_and_its_length(bench: Bench):
    film(bench.folder / "film.mp4", fps=8, seconds_of_sound=0.5)
    between = doing("interpolate_frames", "video/mp4", video="film.mp4", multiplier=4)
    finished = bench.run(document(between))
    (saved,) = finished.results
    with av.open(saved.path) as container:
        (pictures,) = container.streams.video
        (sound,) = container.streams.audio
        assert (pictures.frames, pictures.average_rate, sound.rate) == (13, 32, 8000)
    progress = [event for event in finished.events if isinstance(event, StepProgress)]
    assert [(event.done, event.total) for event in progress] == [(1, 3), (2, 3), (3, 3)]


def test_network_for_interpolation_is_replaced_with_warning(bench: Bench):
    film(bench.folder / "film.mp4")
    step = doing("interpolate_frames", video="film.mp4", model_name="imaginairy/rife-interpolation")
    assert bench.plan(document(step)).warnings == (
        "steps[0].task.arguments.model_name: No library reads this network: OpenCV's optical flow"
        " is used instead.",
    )


def test_cancel_ends_interpolation_between_two_frames(bench: Bench):
    film(bench.folder / "film.mp4")
    seen: list[StepProgress] = []

    def cancel(event: Event) -> None:
        if isinstance(event, StepProgress):
            seen.append(event)
            bench.cancel(event.run_id)

    bench.when = cancel
    finished = bench.run(document(doing("interpolate_frames", "video/mp4", video="film.mp4")))
    assert isinstance(finished.terminal, RunCancelled)
    assert len(seen) == 1


def test_video_variable_works_under_any_argument_name(bench: Bench):
    film(bench.folder / "film.mp4")
    last = doing("get_last_frame", "image/png", video="variable:start_video")
    variables = {"start_video": {"location": "film.mp4"}}
    assert bench.run(document(last, variables=variables)).success
    typed = bench.plan(
        document(last, variables={"start_video": None}), start_video=str(bench.folder / "film.mp4")
    )
    assert bench.run(typed).success


def test_non_video_is_refused_while_planning(bench: Bench):
    (bench.folder / "text.mp4").write_text("no video")
    tone(bench.folder / "tone.wav")
    steps = [
        doing("get_last_frame", name="a", video="text.mp4"),
        doing("get_last_frame", name="b", video="tone.wav"),
        doing("slice_audio", name="c", audio="text.mp4", start_seconds=0, duration_seconds=1),
        doing("crop_square", name="d", image={"media_type": "video", "location": "gone.mp4"}),
    ]
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(document(*steps))
    told = {problem.place: problem.message for problem in caught.value.problems}
    assert json.loads(json.dumps(told)) == {
        "steps[0].task.arguments.video": "'text.mp4' cannot be read as a video.",
        "steps[1].task.arguments.video":
            "'tone.wav' is not a video file (.avi, .mkv, .mov, .mp4, .webm).",
        "steps[2].task.arguments.audio":
            "'text.mp4' cannot be read as a sound.",
        "steps[3].task.arguments.image.location": "There is no video 'gone.mp4'.",
    }  # fmt: skip


def test_video_instead_of_image_is_refused_while_planning(bench: Bench):
    film(bench.folder / "film.mp4")
    picture = {"media_type": "video", "location": "film.mp4"}
    with pytest.raises(InvalidWorkflow, match="A picture is needed: a AudioVideo is not a picture"):
        bench.plan(document(doing("crop_square", image=picture)))
