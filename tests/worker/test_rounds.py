"""A sub-workflow that receives several results runs once for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.protocol import RunFailed, StepRemembered
from tests.engines import Finished
from tests.worker.bench import Bench, Document, document

PNG = {"content_type": "image/png"}


def task(name: str, command: str, *, saved: bool = False, **arguments: Any) -> Document:
    result = {"result": PNG} if saved else {}
    return {"name": name, "task": {"command": command, "arguments": arguments}, **result}


def gathered(folder: Path, *colours: str, name: str = "all") -> Document:
    for colour in colours:
        Image.new("RGB", (64, 32), colour).save(folder / f"{colour}.png")
    return task(name, "gather_images", urls=[f"{colour}.png" for colour in colours])


def call(child: str, name: str = "call", *, saved: bool = False, **arguments: Any) -> Document:
    result = {"result": PNG} if saved else {}
    return {"name": name, "workflow": {"path": f"{child}.json", "arguments": arguments}, **result}


def seen(finished: Finished) -> list[tuple[str, tuple[int, int], Any]]:
    """Returns name, size, and the colour at the middle left of every file."""
    assert finished.success
    found = []
    for result in finished.results:
        with Image.open(result.path) as picture:
            colour = picture.convert("RGB").getpixel((0, picture.height // 2))
            found.append((Path(result.path).name, picture.size, colour))
    return found


def squares(bench: Bench) -> None:
    """A workflow that crops an image to a square and shrinks it."""
    bench.write(
        document(
            task("cut", "crop_square", image="variable:image", saved=True),
            task("small", "resize_rescale", image="previous_result:cut", width=8, height=8,
                 saved=True),
            id="squares",
            variables={"image": None},
        ),
        "squares",
    )  # fmt: skip


RED, BLUE = (255, 0, 0), (0, 0, 255)
EXPECTED = [
    ("squares-cut.0-0.0.png", (32, 32), RED),
    ("squares-small.1-0.0.png", (8, 8), RED),
    ("squares-cut.0-1.0.png", (32, 32), BLUE),
    ("squares-small.1-1.0.png", (8, 8), BLUE),
    ("test-call.1-0.0.png", (8, 8), RED),
    ("test-call.1-1.0.png", (8, 8), BLUE),
]


def test_rounds_use_their_own_results_and_keep_all_files(bench: Bench, tmp_path: Path):
    squares(bench)
    steps = (
        gathered(tmp_path, "red", "blue"),
        call("squares", image="previous_result:all", saved=True),
    )
    finished = bench.run(document(*steps))
    assert seen(finished) == EXPECTED
    assert [result.index for result in finished.results] == [0, 0, 1, 1, 0, 1]


def test_step_after_rounds_gets_all_results(bench: Bench, tmp_path: Path):
    squares(bench)
    after = task(
        "wide", "resize_rescale", image="previous_result:call", width=16, height=8, saved=True
    )
    steps = gathered(tmp_path, "red", "blue"), call("squares", image="previous_result:all"), after
    wide = [each for each in seen(bench.run(document(*steps))) if each[0].startswith("test-wide")]
    assert wide == [("test-wide.2-0.0.png", (16, 8), RED), ("test-wide.2-1.0.png", (16, 8), BLUE)]


def test_rounds_combine_two_inputs(bench: Bench, tmp_path: Path):
    child = document(
        task("both", "gather_inputs", value=["variable:one", "variable:two", "variable:one"]),
        id="pairs", variables={"one": None, "two": None},
    )  # fmt: skip
    child["steps"][0]["result"] = {"content_type": "application/json"}
    bench.write(child, "pairs")
    words = {"name": "words", "task": {"command": "gather_inputs", "inputs": ["a", "b"]}}
    pairs = call("pairs", one="previous_result:words", two="previous_result:words")
    finished = bench.run(document(words, pairs))
    assert [result.text for result in finished.results] == [
        '{"value": ["a", "a", "a"]}', '{"value": ["a", "b", "a"]}',
        '{"value": ["b", "a", "b"]}', '{"value": ["b", "b", "b"]}',
    ]  # fmt: skip


def test_rounds_pick_mapping_entry_of_argument_name(bench: Bench, tmp_path: Path):
    squares(bench)
    Image.new("RGB", (64, 32), "red").save(tmp_path / "red.png")
    pictures = {
        "name": "two",
        "task": {"command": "gather_inputs", "inputs": [{"image": {"location": "red.png"}}]},
    }
    finished = bench.run(document(pictures, call("squares", image="previous_result:two")))
    assert [colour for *_, colour in seen(finished)] == [RED, RED]


def test_nested_rounds_are_separate(bench: Bench, tmp_path: Path):
    squares(bench)
    middle = document(
        gathered(tmp_path, "red", "blue", name="mine"),
        call("squares", image="variable:image"),
        call("squares", "each", image="previous_result:mine", saved=True),
        id="middle", variables={"image": None},
    )  # fmt: skip
    bench.write(middle, "middle")
    steps = (
        gathered(tmp_path, "green", "white"),
        call("middle", "outer", image="previous_result:all", saved=True),
    )
    files = seen(bench.run(document(*steps)))
    cut = [colour for name, _, colour in files if name.startswith("squares-cut")]
    assert cut == [(0, 128, 0), RED, BLUE, (255, 255, 255), RED, BLUE]
    assert [each[2] for each in files if each[0].startswith("test-outer")] == [RED, BLUE] * 2
    assert len({name for name, *_ in files}) == len(files)


def test_results_of_all_rounds_are_cached(bench: Bench, tmp_path: Path):
    squares(bench)
    steps = (
        gathered(tmp_path, "red", "blue"),
        call("squares", image="previous_result:all", saved=True),
    )
    bench.run(document(*steps))
    again = bench.run(document(*steps), fresh=False)
    remembered = [event.step for event in again.events if isinstance(event, StepRemembered)]
    assert remembered == ["all", "call/cut", "call/small", "call"]
    assert sorted(seen(again)) == sorted(EXPECTED)


def test_a_sub_workflow_whose_last_step_changed_runs_all_its_rounds(bench: Bench, tmp_path: Path):
    squares(bench)
    steps = (
        gathered(tmp_path, "red", "blue"),
        call("squares", image="previous_result:all", saved=True),
    )
    bench.run(document(*steps))
    path = tmp_path / "squares.json"
    path.write_text(path.read_text().replace('"width": 8', '"width": 16'))
    again = bench.run(document(*steps), fresh=False)
    assert [event.step for event in again.events if isinstance(event, StepRemembered)] == ["all"]
    assert [size for name, size, _ in seen(again) if "small" in name] == [(16, 8), (16, 8)]


@pytest.mark.parametrize("saved", [True, False])
def test_rounds_over_nothing_are_an_error(bench: Bench, tmp_path: Path, saved: bool):
    squares(bench)
    nothing = {"name": "none", "task": {"command": "gather_inputs", "inputs": [{"a": 1}]}}
    finished = bench.run(
        document(nothing, call("squares", image="previous_result:none.b", saved=saved))
    )
    assert isinstance(finished.terminal, RunFailed)
    assert finished.terminal.error.message == (
        "A result of step 'none' has no 'b', which 'call' refers to."
    )
