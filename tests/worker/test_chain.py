"""Videos made in segments that continue each other, on a stand-in of LTX-2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.janitor import clean_run
from app.protocol import Event, ResultSaved, RunCancelled, RunFailed, StepProgress
from app.unfinished import PART
from tests.engines import Finished
from tests.standins.ltx2 import SOUND_RATE, build_ltx2
from tests.worker.bench import Bench, Document, document
from tests.worker.results.files import Film, seen

FPS = 24.0
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def ltx2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ltx2")
    build_ltx2(folder)
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One bench for all tests here, so that components stay loaded."""
    bench = Bench(tmp_path_factory.mktemp("chain"))
    Image.new("RGB", (64, 64), "red").save(bench.folder / "start.png")
    return bench


def filming(model: Path, chain: Document | None, name: str = "film", **arguments: Any) -> Document:
    given = {
        "prompt": "a fox", "image": "start.png", "width": 64, "height": 64, "num_frames": 9,
        "frame_rate": FPS, "sigmas": [1.0, 0.5], "guidance_scale": 1.0, "stg_scale": 0.0,
        "audio_guidance_scale": 1.0, "audio_stg_scale": 0.0, "modality_scale": 1.0,
        "audio_modality_scale": 1.0, "output_type": "{np}", **arguments,
    }  # fmt: skip
    return {
        "name": name,
        "pipeline": {
            "configuration": {"component_type": "LTX2ImageToVideoPipeline"},
            "from_pretrained_arguments": {"model_name": str(model)},
            "arguments": {key: value for key, value in given.items() if value is not None},
            **({} if chain is None else {"chain": chain}),
        },
        "result": {"content_type": "video/mp4", "fps": FPS},
    }


def film(finished: Finished, number: int = 0) -> Film:
    assert finished.success
    return seen(finished.results[number].path)


def like(one: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether both are the same video, compressed once or twice."""
    return bool(np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8)


def test_chain_joins_segments_into_one_video_with_audio(bench: Bench, ltx2: Path):
    chain = {"segments": 3, "trim_frames": 2}
    finished = bench.run(document(filming(ltx2, chain)))
    made = film(finished)
    assert made.frames.shape == (9 + 7 + 7, 64, 64, 3)
    assert made.sound is not None
    assert made.rate == SOUND_RATE
    assert abs(len(made.sound) / SOUND_RATE - 23 / FPS) < 0.1
    told = [e for e in finished.events if isinstance(e, StepProgress)]
    assert [(e.segment, e.segments, e.done, e.total) for e in told] == [
        (segment, 3, done, 2) for segment in (1, 2, 3) for done in (1, 2)
    ]


def test_chain_first_segment_equals_single_call_and_shares_generator(bench: Bench, ltx2: Path):
    alone = film(bench.run(document(filming(ltx2, None))))
    chained = film(bench.run(document(filming(ltx2, {"segments": 2, "trim_frames": 0}))))
    assert like(chained.frames[:9], alone.frames)
    assert not like(chained.frames[9:], alone.frames)


def test_chain_is_equal_warm_and_cold_and_depends_on_settings(bench: Bench, ltx2: Path):
    chain = {"segments": 2}
    cold = bench.run(document(filming(ltx2, chain)))
    warm = bench.run(document(filming(ltx2, chain)), fresh=False)
    assert warm.success.made_at is not None
    np.testing.assert_array_equal(film(warm).frames, film(cold).frames)
    again = bench.run(document(filming(ltx2, chain)))
    np.testing.assert_array_equal(film(again).frames, film(cold).frames)
    other = bench.run(document(filming(ltx2, {**chain, "trim_frames": 3})), fresh=False)
    assert len(film(other).frames) == len(film(cold).frames) - 2


def test_chain_uses_prompts_by_segment_and_repeats_the_last(bench: Bench, ltx2: Path):
    words = {"name": "words", "task": {"command": "gather_inputs", "inputs": ["a hen", "a cow"]}}
    prompts = ["a fox", "previous_result:words"]
    chain = {"segments": 3, "prompts": prompts}
    finished = bench.run(document(words, filming(ltx2, chain)))
    assert len(finished.results) == 1, "the prompts multiply nothing"
    as_text = {"segments": 3, "prompts": ["a fox", "a hen", "a hen"]}
    same = bench.run(document(filming(ltx2, as_text)))
    np.testing.assert_array_equal(film(finished).frames, film(same).frames)
    plain = film(bench.run(document(filming(ltx2, {"segments": 3}))))
    np.testing.assert_array_equal(film(finished).frames[:9], plain.frames[:9])
    assert (film(finished).frames[9:] != plain.frames[9:]).any()


@pytest.mark.parametrize("keep", [False, True])
def test_chain_joins_saved_segment_files(bench: Bench, ltx2: Path, keep: bool):
    chain = {"segments": 3, "trim_frames": 2}
    in_memory = film(bench.run(document(filming(ltx2, chain))))
    chain |= {"save_segments": True, "keep_segments": keep}
    last = {
        "name": "last",
        "task": {"command": "get_last_frame", "arguments": {"video": "previous_result:film"}},
        "result": {"content_type": "image/png"},
    }
    finished = bench.run(document(filming(ltx2, chain), last))
    made = film(finished)
    assert made.frames.shape == in_memory.frames.shape
    assert like(made.frames, in_memory.frames)
    np.testing.assert_array_equal(made.sound, in_memory.sound)
    with Image.open(finished.results[1].path) as picture:
        assert like(np.asarray(picture), made.frames[-1])
    folder = Path(finished.results[0].path).parent
    files = sorted(folder.glob("*segment*"))
    if keep:
        assert [file.name for file in files] == [
            f"test-film.0.segment-{number:03}.mp4" for number in range(3)
        ]
        assert [len(seen(file).frames) for file in files] == [9, 7, 7]
    else:
        assert files == []


def test_chain_runs_for_every_combination_of_references(bench: Bench, ltx2: Path):
    words = {"name": "words", "task": {"command": "gather_inputs", "inputs": ["a hen", "a cow"]}}
    films = filming(ltx2, {"segments": 2}, prompt="previous_result:words")
    finished = bench.run(document(words, films))
    names = [Path(result.path).name for result in finished.results]
    assert names == ["test-film.1-0.0.mp4", "test-film.1-1.0.mp4"]
    assert (film(finished, 0).frames != film(finished, 1).frames).any()


def test_chain_ignores_errors_when_removing_segments(bench: Bench, ltx2: Path):
    def replace(event: Event) -> None:
        if isinstance(event, ResultSaved):
            for unfinished in Path(event.path).parent.glob(f"{PART}*"):
                assert len(list(unfinished.glob("*.mp4"))) == 2
                shutil.rmtree(unfinished)
                unfinished.touch()

    bench.when = replace
    wanted = document(filming(ltx2, {"segments": 2, "save_segments": True}))
    finished = bench.run(wanted)
    bench.when = lambda _event: None
    assert finished.success
    folder = Path(finished.results[0].path).parent
    assert len(clean_run(folder)) == 1
    assert not list(folder.glob(f"{PART}*"))


def test_chain_cancelled_inside_a_segment_leaves_no_files(bench: Bench, ltx2: Path):
    def cancel(event: Event) -> None:
        if isinstance(event, StepProgress) and event.segment == 2:
            bench.cancel(event.run_id)

    chain = {"segments": 3, "save_segments": True}
    bench.when = cancel
    try:
        finished = bench.run(document(filming(ltx2, chain)))
    finally:
        bench.when = lambda _event: None
    assert isinstance(finished.terminal, RunCancelled)
    segments = [e.segment for e in finished.events if isinstance(e, StepProgress)]
    assert segments == [1, 1, 2]
    folder = bench.folder / "outputs" / finished.run_id
    assert not list(folder.glob("*")) if folder.is_dir() else True
    assert len(film(bench.run(document(filming(ltx2, {"segments": 2})))).frames) == 17


def test_chain_refuses_segment_with_two_videos(bench: Bench, ltx2: Path):
    finished = bench.run(document(filming(ltx2, {"segments": 2}, num_videos_per_prompt=2)))
    assert isinstance(finished.terminal, RunFailed)
    assert finished.terminal.error.message == (
        "A segment of step 'film' made 2 results; a chain needs one video per segment."
    )


def test_chain_runs_separately_for_each_reference(bench: Bench, ltx2: Path):
    arguments = filming(ltx2, None)["pipeline"]["arguments"]
    again = {
        "name": "again",
        "pipeline_reference": {
            "reference_name": "film", "arguments": arguments, "chain": {"segments": 2}
        },
        "result": {"content_type": "video/mp4", "fps": FPS},
    }  # fmt: skip
    finished = bench.run(document(filming(ltx2, None), again))
    assert [len(film(finished, number).frames) for number in (0, 1)] == [9, 17]


def test_record_contains_chain_settings(bench: Bench, ltx2: Path):
    finished = bench.run(document(filming(ltx2, {"segments": 2})))
    record = json.loads(Path(finished.results[0].sidecar).read_text())
    assert record["workflow"]["steps"][0]["pipeline"]["chain"] == {"segments": 2}
