"""`batch`, called as from a shell: with its own worker and against a running server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from tests.processes import started
from tests.servers import Server, started_server

PROJECT = Path(__file__).resolve().parent.parent.parent
PICTURE = PROJECT / "docs" / "screenshot.png"
BATCH = [sys.executable, "-m", "app", "batch"]
TABLE = """\
prompt,steps,seed,workflow,image
a blue star,2,5,,
"a red, large star",,,,
,2,,variations,{picture}
"""
SIZE = "/steps/0/pipeline/arguments/width=256"


class Ran(NamedTuple):
    """A command that has ended."""

    exit_code: int
    files: list[Path]
    stderr: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_server(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(params=["local", "remote"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Options for either workbench."""
    where = ["--output", str(tmp_path / "made"), "--workflow", "text-to-image"]
    if request.param == "local":
        return [*where, "--device", "cpu"]
    return [*where, "--server", request.getfixturevalue("server").url]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    picture = tmp_path / "start.png"
    Image.new("RGB", (128, 128), "white").save(picture)
    table = tmp_path / "rows.csv"
    table.write_text(TABLE.format(picture=picture))
    return table


def batch(file: Path, *arguments: str) -> Ran:
    ended = subprocess.run(
        [*BATCH, str(file), *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    return Ran(ended.returncode, [Path(line) for line in ended.stdout.splitlines()], ended.stderr)


def results(file: Path) -> list[dict[str, Any]]:
    lines = file.with_suffix(".results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def record(file: Path) -> dict[str, Any]:
    return json.loads(file.with_name(f"{file.name}.json").read_text())


def test_each_row_is_run_once_and_noted(own: list[str], table: Path) -> None:
    ran = batch(table, *own)
    assert ran.exit_code == 0, ran.stderr
    first, second, third = ran.files
    assert (
        record(first)["inputs"] | {"prompt": "a blue star", "steps": 2} == (record(first)["inputs"])
    )
    assert (record(first)["seed"], record(second)["inputs"]["steps"]) == (5, 20)
    assert record(second)["inputs"]["prompt"] == "a red, large star"
    assert third.name.startswith("variations-vary")
    noted = results(table)
    assert [(each["row"], each["files"]) for each in noted] == [
        (number, [str(file)]) for number, file in enumerate(ran.files, start=1)
    ]
    assert [each["seed"] for each in noted] == [record(file)["seed"] for file in ran.files]
    assert "Row 3 of 3: Done in " in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("Rows: 3 done, 0 failed. Results: ")
    # Only what is missing is run again, in rows that have moved too.
    second.unlink()
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]))
    again = batch(table, *own)
    assert (again.exit_code, len(again.files)) == (0, 1)
    assert record(again.files[0])["inputs"]["prompt"] == "a red, large star"
    assert "Rows: 1 done, 2 done before, 0 failed." in again.stderr


def test_mistakes_of_all_rows_are_told_before_the_first_run(own: list[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = (
        {"steps": "many"}, {"steps": 51, "colour": "red"}, {"steps": 2}, "no object",
        {"workflow": "text-to-imag"}, {"workflow": "variations", "image": "none.png"},
        {"colour": "red"},
    )  # fmt: skip
    file.write_text("\n".join(map(json.dumps, rows)))
    ran = batch(file, *own)
    assert (ran.exit_code, ran.files) == (1, [])
    head, *told = ran.stderr.splitlines()
    assert head == "'rows.jsonl' has mistakes, so no row was run."
    assert "- row 1 (line 1), steps: A whole number is needed, not 'many'." in told
    assert "- row 2 (line 2), steps: 51 is outside 1 to 50." in told
    assert any(line.startswith("- rows 2, 7, colour: This workflow has no var") for line in told)
    assert "- row 4 (line 4): An object is needed, not 'no object'." in told
    assert any("row 5 (line 5): There is no workflow 'text-to-imag'. Did you" in t for t in told)
    assert any(line.startswith("- row 6 (line 6), image: ") for line in told)
    assert len(told) == 6
    assert not file.with_suffix(".results.jsonl").exists()


def test_failed_row_stops_no_other_and_is_tried_again(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = ({"workflow": "variations", "image": str(PICTURE)}, {"workflow": "text-to-image"})
    file.write_text("\n".join(json.dumps({"steps": 2, **row}) for row in rows))
    # A server plans its documents itself, so it refuses this change when the row is run.
    own = ["--server", server.url, "--output", str(tmp_path / "made"), "--set", SIZE]
    ran = batch(file, *own)
    assert (ran.exit_code, len(ran.files)) == (1, 1)
    assert record(ran.files[0])["changes"] == {SIZE.partition("=")[0]: 256}
    failed, done = results(file)
    assert "takes no 'width'" in failed["error"]
    assert done["files"] == [str(ran.files[0])]
    again = batch(file, *own)
    assert (again.exit_code, again.files) == (1, [])
    assert "Rows: 0 done, 1 done before, 1 failed." in again.stderr


def test_fresh_runs_all_rows_and_begins_results_anew(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"steps": 1, "seed": 5}\n')
    own = ["--workflow", "text-to-image", "--server", server.url, "--output", str(tmp_path)]
    (first,) = batch(file, *own).files
    (again,) = batch(file, *own, "--fresh").files
    assert first != again
    assert [each["files"] for each in results(file)] == [[str(again)]]


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,steps\n")
    ran = batch(tmp_path / "rows.csv", "--output", str(tmp_path / "none"), "--device", "cpu")
    assert ran == (1, [], "'rows.csv' has no rows.\n")


def test_ctrl_c_cancels_the_row_and_keeps_what_is_done(own: list[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"steps": 1}\n{"steps": 50, "pictures": 4}\n{"steps": 2}\n')
    with started(
        [*BATCH, str(file), *own, "--log-level", "INFO"], cwd=PROJECT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        log = iter(process.stderr.readline, "")
        assert any("Row 1 of 3: Done" in line for line in log)
        assert any("Reusing" in line for line in log)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [each["files"] for each in results(file)] == [stdout.splitlines()]
    assert "Row 2 of 3: Cancelled" in stderr
    assert "Rows: 1 done, 0 failed." in stderr


def test_watched_file_is_read_on_until_ctrl_c(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"steps": 1}\n{"steps": 2')
    own = ["--workflow", "text-to-image", "--device", "cpu", "--output", str(tmp_path / "made")]
    with started(
        [*BATCH, str(file), *own, "--watch"], cwd=PROJECT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        made = [process.stdout.readline()]
        with file.open("a") as rows:
            rows.write('}\n{"steps": "many"}\n{"steps": 3}\n')
        made += [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=60)
    assert rest == ""
    inputs = [record(Path(line.strip()))["inputs"]["steps"] for line in made]
    assert inputs == [1, 2, 3]
    assert "Row 3: inputs.steps: A whole number is needed, not 'many'." in stderr
    assert "Rows: 3 done, 1 failed." in stderr
    assert [each["row"] for each in results(file)] == [1, 2, 3, 4]
    assert process.returncode == 1
