"""The dw> prompt, with its own worker and against a running server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.media.films import COLOURS, film
from tests.processes import left_over, started
from tests.servers import Server, started_server

PROJECT = Path(__file__).resolve().parent.parent.parent
REPL = [sys.executable, "-m", "app", "repl"]
COMPLETED = re.compile(r"Workflow completed \(\d+\.\d seconds\)")
COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


class Transcript(NamedTuple):
    """Typed lines and answers, in order."""

    exit_code: int
    text: str

    def answers(self, command: str) -> list[list[str]]:
        """Returns the lines after each time this was typed."""
        parts = [part.splitlines() for part in self.text.split("dw> ")[1:]]
        found = [lines for typed, *lines in parts if typed == command]
        assert found, f"'{command}' is not in:\n{self.text}"
        return found

    def answer(self, command: str) -> list[str]:
        """Returns the lines after the one time this was typed."""
        (lines,) = self.answers(command)
        return lines


def prompt(script: str, *arguments: str | Path) -> Transcript:
    """Returns the prompt's transcript of a script on its stdin."""
    ended = subprocess.run(
        [*REPL, *map(str, arguments)], cwd=PROJECT, input=script, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert ended.stderr == ""
    return Transcript(ended.returncode, ended.stdout)


def loads(lines: list[str]) -> list[str]:
    """Returns the lines about loading, without their level."""
    return [
        line.removeprefix("INFO ") for line in lines if re.match("INFO (Loading .* m|Reu)", line)
    ]


def files(lines: list[str]) -> list[Path]:
    """Returns the printed files."""
    return [Path(line) for line in lines if line.endswith(".png")]


def inputs_of(file: Path) -> dict[str, object]:
    """Returns the inputs in an image's record."""
    return json.loads(file.with_name(f"{file.name}.json").read_text())["inputs"]


SCRIPT = """
load text-to-image
run steps=2
run steps=2
status
memory
clear
memory
# a comment
run steps=2

set steps=3 prompt="a blue star"
run steps=1 prompt="a red star"
run
set prompt=
set
load variations
run image={picture} steps=3
load text-to-image
run steps=4
run steps=2 --seed 5
run --seed 5 steps=2
run steps=2 --seed 5 --fresh

frobnicate
statsu
load text-to-imag
run stepps=1
run steps
run steps=many
run --seed many
set "prompt
run steps=5
help
workflows
exit
never reached
"""
LOADING = [
    "Loading pipeline from model: ../models/shapes",
    *(f"Loading {name} from model: ../models/shapes" for name in COMPONENTS),
]
REUSING = ["Reusing loaded models from cache"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "start.png"
    Image.new("RGB", (128, 128), "white").save(path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_server(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where a prompt without its own worker puts downloaded results."""
    return tmp_path_factory.mktemp("fetched")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, picture: Path) -> Transcript:
    outputs = tmp_path_factory.mktemp("outputs")
    return prompt(SCRIPT.format(picture=picture), "--output", outputs, "--device", "cpu")


@pytest.fixture(scope="module")
def remote(server: Server, fetched: Path, picture: Path) -> Transcript:
    return prompt(SCRIPT.format(picture=picture), "--output", fetched, "--server", server.url)


@pytest.fixture(params=["local", "remote"])
def transcript(request: pytest.FixtureRequest) -> Transcript:
    """The script's transcript, by either workbench: they answer alike."""
    return request.getfixturevalue(request.param)


# --- what stays loaded ---------------------------------------------------------------------------


def test_first_run_loads_second_reuses_and_clear_reloads(
    transcript: Transcript,
) -> None:
    first, second, third = transcript.answers("run steps=2")
    assert transcript.answers("load text-to-image")[0] == ["Loading workflow: text-to-image"]
    assert loads(first) == LOADING
    assert loads(second) == REUSING
    assert loads(third) == LOADING
    for lines in (first, second, third):
        assert COMPLETED.fullmatch(lines[-1])
        assert [file.is_file() for file in files(lines)] == [True]


def test_clear_reports_freed_memory_between_fixed_lines(transcript: Transcript) -> None:
    lines = transcript.answer("clear")
    assert lines[0] == "INFO Performing full cleanup"
    assert lines[-2:] == ["Full cleanup performed", "GPU memory cleared"]
    freed = lines[-3]
    assert re.match(r"Freed \d+ MB: unet of shapes \(float32\), ", freed)


def test_switching_workflows_on_one_model_loads_nothing(
    transcript: Transcript, picture: Path
) -> None:
    there = transcript.answer(f"run image={picture} steps=3")
    back = transcript.answer("run steps=4")
    assert (loads(there), loads(back)) == (REUSING, REUSING)
    assert files(there)[0].name.startswith("variations-vary")
    assert files(back)[0].name.startswith("text-to-image-draw")


def test_status_and_memory_show_held_components(
    transcript: Transcript,
) -> None:
    status = dict(line.split(None, 1) for line in transcript.answer("status"))
    assert status["worker"].startswith("ready (pid ")
    assert status["running"] == "nothing"
    assert status["held"] == f"{len(COMPONENTS)} components"
    before, after = (" ".join(lines) for lines in transcript.answers("memory"))
    assert all(f"{name} of shapes" in before for name in COMPONENTS)
    assert "of shapes" not in after
    assert "used by the worker process" in after


# --- values --------------------------------------------------------------------------------------


def test_set_applies_to_all_runs_and_run_values_to_one(
    transcript: Transcript,
) -> None:
    assert "steps = 3" in transcript.answer('set steps=3 prompt="a blue star"')
    (once,) = files(transcript.answer('run steps=1 prompt="a red star"'))
    (kept,) = files(transcript.answer("run"))
    assert (inputs_of(once)["steps"], inputs_of(once)["prompt"]) == (1, "a red star")
    assert (inputs_of(kept)["steps"], inputs_of(kept)["prompt"]) == (3, "a blue star")


def test_value_is_removed_by_empty_set(transcript: Transcript) -> None:
    shown = transcript.answer("set")
    assert "steps = 3" in shown
    assert "prompt = a red circle on a white background  (default)" in shown


# --- what is remembered --------------------------------------------------------------------------


def test_unchanged_result_is_reported_with_alternatives(transcript: Transcript) -> None:
    typed = ("run steps=2 --seed 5", "run --seed 5 steps=2", "run steps=2 --seed 5 --fresh")
    first, again, fresh = map(transcript.answer, typed)
    # A record is part of its file and names its run.
    one, other, anew = (files(lines)[0].read_bytes() for lines in (first, again, fresh))
    assert one == other != anew
    said, how = again[-2].split(". ")
    assert re.fullmatch(r"Unchanged: from \d\d:\d\d, seed 5", said)
    assert how == "`--seed N` makes another, `--fresh` the same again."
    assert not any("Unchanged" in line for line in [*first, *fresh])


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("frobnicate", ["'frobnicate' is not a command. `help` lists them."]),
        ("statsu", ["'statsu' is not a command. Did you mean 'status'?"]),
        (
            "load text-to-imag",
            ["There is no workflow 'text-to-imag'. Did you mean 'text-to-image'?"],
        ),
        ("run stepps=1", ["This workflow has no variable 'stepps'. Did you mean 'steps'?"]),
        ("run steps", ["'steps' is not of the form name=value."]),
        (
            "run steps=many",
            [
                "'text-to-image' cannot run with these inputs.",
                "- inputs.steps: A whole number is needed, not 'many'.",
            ],
        ),
        ("run --seed many", ["--seed takes a whole number."]),
        ('set "prompt', ["That line cannot be read: no closing quotation."]),
    ],
)
def test_mistake_is_reported_in_a_sentence(
    transcript: Transcript, typed: str, told: list[str]
) -> None:
    assert transcript.answer(typed) == told


def test_prompt_continues_after_mistakes_and_exit_code_is_1(
    transcript: Transcript,
) -> None:
    assert COMPLETED.fullmatch(transcript.answer("run steps=5")[-1])
    assert transcript.exit_code == 1


# --- the prompt itself ---------------------------------------------------------------------------


def test_help_names_every_command(transcript: Transcript) -> None:
    listed = {line.split()[0] for line in transcript.answer("help")}
    assert listed == {
        "load", "workflows", "set", "run", "status", "memory", "clear", "help", "exit",
    }  # fmt: skip


def test_workflows_lists_shipped_ones(transcript: Transcript, shipped_workflows: Path) -> None:
    listed = {line.split()[0] for line in transcript.answer("workflows")}
    assert {path.stem for path in shipped_workflows.glob("*.json")} <= listed


def test_exit_ignores_following_lines(transcript: Transcript) -> None:
    assert transcript.text.endswith("dw> exit\n")


def test_end_of_input_ends_prompt(tmp_path: Path) -> None:
    transcript = prompt("help\n", "text-to-image", "--output", tmp_path, "--device", "cpu")
    assert transcript.exit_code == 0
    assert transcript.text.startswith("Loading workflow: text-to-image\n")


def test_run_before_load_is_refused_with_hint(tmp_path: Path) -> None:
    transcript = prompt("run\n", "--output", tmp_path, "--device", "cpu")
    assert transcript.answer("run") == ["No workflow is loaded. Load one: load text-to-image"]


@pytest.mark.parametrize("where", ["local", "remote"])
def test_ctrl_c_cancels_run_only(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue("server") if where == "remote" else None
    own = ["--server", server.url] if server else ["--device", "cpu"]
    with started(
        [*REPL, "text-to-image", "--output", str(tmp_path), *own], cwd=PROJECT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        print("run steps=1\nrun steps=50 pictures=4", file=process.stdin, flush=True)
        lines = iter(process.stdout.readline, "")
        assert any("dw> run steps=50" in line for line in lines)
        assert any("Reusing" in line for line in lines)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate("run steps=2\nexit\n", timeout=60)
    assert re.search(r"^Cancelled while \w+", rest, re.MULTILINE)
    assert "Reusing loaded models from cache" in rest.partition("dw> run steps=2")[2]
    assert COMPLETED.search(rest)


@pytest.mark.parametrize(
    ("number", "ignored"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGHUP, ()),
        # As `nohup` and a shell's `&` start it, and where SIGTERM is ignored too.
        (signal.SIGTERM, (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)),
    ],
)
def test_ended_prompt_leaves_no_process_and_no_file(
    number: signal.Signals, ignored: tuple[signal.Signals, ...], tmp_path: Path
) -> None:
    (tmp_path / "temporary").mkdir()
    with started(
        [*REPL, "--device", "cpu", "--output", str(tmp_path / "made")], cwd=PROJECT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")}, ignored=ignored,
    ) as process:  # fmt: skip
        for other in {*ignored} - {number}:
            process.send_signal(other)
        print("status", file=process.stdin, flush=True)
        assert any("worker " in line for line in iter(process.stdout.readline, ""))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == 130
    assert left_over(children, within_s=5) == []
    left = {folder.name.partition("_")[0] for folder in (tmp_path / "temporary").iterdir()}
    assert left <= {"torchinductor"}, "torch keeps a cache there; nobody else does"


# --- paths and marks -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "remote"])
def test_home_is_replaced_in_paths_and_byte_order_mark_is_ignored(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    Image.new("RGB", (128, 128), "white").save(tmp_path / "my start.png")
    server = request.getfixturevalue("server") if where == "remote" else None
    own = ["--server", server.url] if server else ["--device", "cpu"]
    mark = "\ufeff"
    typed = (
        f"{mark}load variations",
        f"""run "image=~/my start.png" prompt={mark}~ steps=2""",
        "run image=~/none.png",
        f"{mark}exit",
    )
    ended = subprocess.run(
        [*REPL, *own, "--output=~/made"], cwd=PROJECT, input="\n".join(typed),
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    made = str(tmp_path / "made")
    (file,) = files([line for line in ended.stdout.splitlines() if line.startswith(made)])
    assert inputs_of(file)["prompt"] == "~"
    assert f"{tmp_path}/none.png" in ended.stdout
    assert ended.stdout.startswith("dw> load variations\n")
    assert ended.stdout.endswith("dw> exit\n")


# --- against a server ----------------------------------------------------------------------------


def test_results_of_server_are_downloaded_with_record(
    remote: Transcript, server: Server, fetched: Path
) -> None:
    (file,) = files(remote.answer("run steps=4"))
    theirs = server.outputs / file.relative_to(fetched)
    assert file.read_bytes() == theirs.read_bytes()
    assert inputs_of(file) == inputs_of(theirs)


def test_server_log_shows_loads_and_cleanup(remote: Transcript, server: Server) -> None:
    log = server.log.read_text()
    assert log.count("Loading unet from model: ../models/shapes") == 2
    assert log.count("Performing full cleanup") == 1
    assert remote.text.count("Loading unet from model: ../models/shapes") == 2


def test_video_is_uploaded_and_url_is_passed_to_server(server: Server, tmp_path: Path) -> None:
    shots = film(tmp_path / "shots.mp4")
    step = {
        "name": "last",
        "task": {"command": "get_last_frame", "arguments": {"video": "variable:video"}},
        "result": {"content_type": "image/png"},
    }
    document = {"id": "last-frame", "variables": {"video": None}, "steps": [step]}
    (server.workflows / "last-frame.json").write_text(json.dumps(document))
    lines = (
        "load last-frame", f"run video={shots}", "run video=none.mp4",
        "run video=http://127.0.0.1/x.mp4",
    )  # fmt: skip
    told = prompt("\n".join(lines), "--output", tmp_path, "--server", server.url)
    (made,) = files(told.answer(lines[1]))
    with Image.open(made) as picture:
        assert np.abs(np.array(picture.getpixel((0, 0)), int) - COLOURS[-1]).max() < 20
    assert told.answer(lines[2]) == ["video: There is no video 'none.mp4'."]
    assert "127.0.0.1 is not a public address" in " ".join(told.answer(lines[3]))


def test_missing_server_is_reported_before_prompt(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*REPL, "--server", "http://127.0.0.1:9", "--output", str(tmp_path)], cwd=PROJECT,
        input="help\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("No workbench could be reached at http://127.0.0.1:9 (")
