"""Result blocks: planned, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.plan import ResultSpec
from tests.plan_bench import Bench, drawing, step


def saving(**result: Any) -> dict[str, Any]:
    return drawing(steps=[step() | {"result": result}])


def planned(bench: Bench, **result: Any) -> ResultSpec:
    (only,) = bench.plan(saving(**result)).steps
    assert only.result is not None
    return only.result


def test_fps_and_sample_rate_may_be_variables(bench: Bench):
    document = saving(content_type="video/mp4", fps="variable:fps", sample_rate="variable:rate")
    document["variables"] |= {"fps": 24, "rate": 16_000}
    (only,) = bench.plan(document, fps=30).steps
    assert only.result == ResultSpec(content_type="video/mp4", fps=30, sample_rate=16_000)


def test_sample_rate_has_two_names(bench: Bench):
    assert planned(bench, content_type="audio/wav", samplerate=16_000).sample_rate == 16_000
    both = saving(content_type="audio/wav", samplerate=16_000, sample_rate=8000)
    assert bench.problems(both) == {
        "steps[0].result.samplerate": "'sample_rate' and 'samplerate' have different values."
    }


@pytest.mark.parametrize(
    ("said", "subtype"),
    [
        ({"content_type": "audio/wav"}, "PCM_16"),
        ({"content_type": "audio/wav", "format": "wav", "subtype": "float"}, "FLOAT"),
        ({"content_type": "audio/ogg", "format": "OGG", "subtype": "VORBIS"}, "VORBIS"),
        ({"content_type": "audio/mp3", "bitrate_mode": "AVERAGE"}, "MPEG_LAYER_III"),
        ({"content_type": "audio/flac", "compression_level": 1}, "PCM_16"),
    ],
)
def test_audio_options_are_those_of_soundfile(bench: Bench, said: dict[str, Any], subtype: str):
    assert planned(bench, **said).subtype == subtype


@pytest.mark.parametrize(
    ("said", "place", "sentence"),
    [
        (
            {"content_type": "audio/mp3", "format": "wav"}, "format",
            "A file of audio/mp3 is MP3, not WAV. Its content type is audio/wav.",
        ),
        (
            {"content_type": "audio/wav", "subtype": "FLOTE"}, "subtype",
            "'FLOTE' is not one of PCM_16, PCM_U8, PCM_24, PCM_32, FLOAT, DOUBLE, ULAW, ALAW."
            " Did you mean 'FLOAT'?",
        ),
        (
            {"content_type": "audio/wav", "compression_level": 0.5}, "compression_level",
            "PCM_16 is not compressed.",
        ),
        (
            {"content_type": "audio/flac", "bitrate_mode": "CONSTANT"}, "bitrate_mode",
            "PCM_16 has no bit rate to choose.",
        ),
        (
            {"content_type": "image/png", "subtype": "PCM_16"}, "subtype",
            "A file of image/png has no 'subtype'.",
        ),
    ],
)  # fmt: skip
def test_unsupported_file_options_are_refused(
    bench: Bench, said: dict[str, Any], place: str, sentence: str
):
    assert bench.problems(saving(**said)) == {f"steps[0].result.{place}": sentence}


@pytest.mark.parametrize("fps", [0, -1, 241, "24", True])
def test_invalid_fps_is_refused(bench: Bench, fps: Any):
    problems = bench.problems(saving(content_type="video/mp4", fps=fps))
    assert list(problems) == ["steps[0].result.fps"]


def test_unknown_content_type_is_refused_with_choices(bench: Bench):
    (sentence,) = bench.problems(saving(content_type="image/jpg")).values()
    assert sentence == "'image/jpg' is not a known value. Did you mean 'image/jpeg'?"
    (sentence,) = bench.problems(saving(content_type="psd")).values()
    assert sentence.startswith("'psd' is not one of 'image/png', 'image/jpeg'")


def test_file_names_follow_dialect(bench: Bench):
    bench.write(drawing(id="inner", steps=[step("one"), step("two")]), "child.json")
    steps = [step("draw"), {"name": "sub", "workflow": {"path": "child.json"}}]
    plan = bench.plan(drawing(id="outer", steps=steps))
    assert [each.file_stem for each in plan.steps] == ["outer-draw.0", "inner-one.0", "inner-two.1"]
