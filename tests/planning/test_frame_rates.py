"""The frame rate of videos whose result names none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plan_bench import Bench, Document, drawing, sub

FILM = {"content_type": "video/mp4"}
CHAIN = {"segments": 2, "fps": 16, "segment_argument": "latents"}


def filmed(
    pipeline: str = "LTX2Pipeline", result: Document = FILM, chain: Any = None, **arguments: Any
) -> Document:
    block = {
        "configuration": {"component_type": pipeline},
        "from_pretrained_arguments": {"model_name": "owner/name"},
        "arguments": {"prompt": "a fox", **arguments},
    }
    return {
        "name": "film",
        "pipeline": block if chain is None else {**block, "chain": chain},
        "result": result,
    }


def pace(bench: Bench, *steps: Document) -> float | None:
    last = bench.plan(drawing(steps=list(steps))).steps[-1]
    assert last.result is not None
    return last.result.fps


@pytest.mark.parametrize(
    ("step", "fps"),
    [
        (filmed(frame_rate=30.0), 30),
        (filmed(), 24),
        (filmed(frame_rate=30.0, result={**FILM, "fps": 12}), 12),
        (filmed("WanPipeline"), None),
        (filmed("CosmosTextToWorldPipeline", fps=20), 20),
        (
            filmed("WanPipeline", chain={"segments": 2, "fps": 16, "segment_argument": "latents"}),
            16,
        ),
        (filmed(frame_rate=30.0, result={"content_type": "image/gif"}), 30),
        (filmed(frame_rate=30.0, result={"content_type": "audio/wav"}), None),
    ],
)
def test_fps_comes_from_result_then_chain_then_call(
    bench: Bench, step: Document, fps: float | None
):
    assert pace(bench, step) == fps


def task(command: str, **arguments: Any) -> Document:
    return {
        "name": command,
        "task": {"command": command, "arguments": arguments},
        "result": FILM,
    }


def test_fps_is_inherited_from_source_video(bench: Bench):
    silent = {**filmed(frame_rate=30.0), "result": {**FILM, "save": False}}
    paired = task("pair_audio", video="previous_result:film", audio="previous_result:film")
    assert pace(bench, silent, paired) == 30
    joined = task("concat_videos", videos=["previous_result:film"], fps=15)
    assert pace(bench, silent, joined) == 15


def test_fps_of_sub_workflow_video_is_kept(bench: Bench):
    bench.write(drawing(steps=[filmed(frame_rate=30.0)]), "child.json")
    assert pace(bench, sub("child.json") | {"result": FILM}) == 30


def test_interpolated_video_plays_faster(bench: Bench):
    silent = {**filmed(frame_rate=12.0), "result": {**FILM, "save": False}}
    between = task("interpolate_frames", video="previous_result:film", multiplier=4)
    assert pace(bench, silent, between) == 48
    again = {**task("interpolate_frames", video="previous_result:interpolate_frames")}
    assert pace(bench, silent, between, {**again, "name": "again"}) == 96
    said = {**between, "result": {**FILM, "fps": 24}}
    assert pace(bench, silent, said) == 24
    assert pace(bench, filmed("WanPipeline"), between) is None
