"""Chain blocks: planned, and refused with their place."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.plan import Chain, PipelineStep
from app.dialect.plan_values import LiteralValue, ResultValue
from app.dialect.segments import FrameSnap
from tests.plan_bench import Bench, drawing, step

AT = "steps[0].pipeline.chain"


def filming(chain: Any, **arguments: Any) -> dict[str, Any]:
    given = {"prompt": "a fox", "num_frames": 17, "frame_rate": 24.0, **arguments}
    return step(
        "film",
        configuration={"component_type": "LTX2ImageToVideoPipeline"},
        arguments={name: value for name, value in given.items() if value is not None},
        chain=chain,
    ) | {"result": {"content_type": "video/mp4"}}


def planned(bench: Bench, chain: Any, **arguments: Any) -> Chain:
    (only,) = bench.plan(drawing(steps=[filming(chain, **arguments)])).steps
    assert isinstance(only, PipelineStep)
    assert only.chain is not None
    return only.chain


def problems(bench: Bench, chain: Any, **arguments: Any) -> dict[str, str]:
    return bench.problems(drawing(steps=[filming(chain, **arguments)]))


def test_chain_is_planned(bench: Bench):
    grid = {"modulus": 8, "remainder": 1, "max_frames": 121}
    assert planned(bench, {"segments": 3, "trim_frames": 2, "frame_snap": grid}) == Chain(
        segments=3, trim_frames=2, fps=24.0,
        frame_snap=FrameSnap(modulus=8, remainder=1, max_frames=121),
    )  # fmt: skip


def test_fps_of_chain_overrides_call(bench: Bench):
    assert planned(bench, {"segments": 2, "fps": 12}).fps == 12
    assert planned(bench, {"segments": 2}, frame_rate=None).fps is None


def test_chain_numbers_may_be_variables(bench: Bench):
    document = drawing(steps=[filming({"segments": "variable:n", "trim_frames": "variable:n"})])
    document["variables"] |= {"n": 2}
    (only,) = bench.plan(document, n=5).steps
    assert (only.chain.segments, only.chain.trim_frames) == (5, 5)


def test_chain_prompts_are_texts_or_results(bench: Bench):
    words = {"name": "words", "task": {"command": "gather_inputs", "inputs": ["a", "b"]}}
    film = filming({"segments": 2, "prompts": ["a fox", "previous_result:words"]})
    _, only = bench.plan(drawing(steps=[words, film])).steps
    referred = ResultValue(step="words")
    assert only.chain.prompts == (LiteralValue(value="a fox"), referred)
    assert only.references == [referred]


def test_pipeline_reference_has_its_own_chain(bench: Bench):
    again = {
        "name": "again",
        "pipeline_reference": {
            "reference_name": "film", "arguments": {"prompt": "a hen"}, "chain": {"segments": 4}
        },
    }  # fmt: skip
    film = filming({"segments": 2})
    _, chained = bench.plan(drawing(steps=[film, again])).steps
    assert chained.chain == Chain(segments=4)
    del again["pipeline_reference"]["chain"]
    _, alone = bench.plan(drawing(steps=[film, again])).steps
    assert alone.chain is None


@pytest.mark.parametrize(
    ("chain", "place", "sentence"),
    [
        ({}, "", "A chain has exactly one of 'segments' and 'match_audio'."),
        ({"segments": 2, "match_audio": True}, "", "A chain has exactly one of"),
        ({"segments": 0}, ".segments", "0 is too small; 1 is the least."),
        ({"segments": 1001}, ".segments", "1001 is too large; 1000 is the most."),
        ({"segments": 2, "continuity": "first"}, ".continuity", "'first' is not one of"),
        ({"segments": 2, "segment": 3}, ".segment", "'segment' is not a known key."),
        ({"segments": 2, "carry_frames": 3}, ".carry_frames", "is for chains whose continuity"),
        ({"segments": 2, "carry_audio": False}, ".carry_audio", "is for chains whose continuity"),
        ({"segments": 2, "segment_argument": "imge"}, ".segment_argument", "Did you mean 'image'?"),
        ({"segments": 2, "trim_frames": 17}, ".trim_frames", "Nothing is left of a segment of 17"),
        (
            {"segments": 2, "continuity": "last_segment"},
            ".segment_argument", "The last segment cannot be 'image': that is no list of",
        ),
        (
            {"segments": 2, "frame_snap": {"modulus": 8, "remainder": 2}},
            ".frame_snap", "17 frames are not 8n + 2. The next is 18.",
        ),
        (
            {"segments": 2, "frame_snap": {"modulus": 8, "remainder": 8}},
            ".frame_snap.remainder", "It has to be less than 8, the modulus.",
        ),
        ({"segments": 2, "keep_segments": True}, ".keep_segments", "Set 'save_segments' too."),
        ({"segments": 2, "prompts": []}, ".prompts", "A non-empty list"),
        ({"match_audio": True}, ".match_audio", "The sound is taken from the list of 'references'"),
    ],
)  # fmt: skip
def test_malformed_chain_is_refused_with_place(bench: Bench, chain: Any, place: str, sentence: str):
    found = problems(bench, chain)
    assert list(found) == [AT + place]
    assert sentence in found[AT + place]


@pytest.mark.parametrize("chain", [{"segments": 2, "save_segments": True}])
def test_missing_fps_is_refused_with_hint(bench: Bench, chain: Any):
    (sentence,) = problems(bench, chain, frame_rate=None).values()
    assert sentence.endswith("Set 'fps', or give the pipeline a 'frame_rate'.")
