"""The command line, called as from a shell: output and exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from app.shell.command_line import parsed
from app.worker.loading.converted import ConvertedWeights
from tests.hub import Hub
from tests.plan_bench import safetensors
from tests.processes import left_over, started
from tests.servers import Server, started_server

PROJECT = Path(__file__).resolve().parent.parent.parent
WORKBENCH = [sys.executable, "-m", "app"]
SAME = ["run", "text-to-image", "prompt=a blue star", "steps=2", "--seed", "5", "--device", "cpu"]


class Ran(NamedTuple):
    """A command that has ended."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float


def workbench(*arguments: str | Path, typed: str = "") -> Ran:
    """Calls the workbench as a shell would and waits for its end."""
    started = time.monotonic()
    ended = subprocess.run(
        [*WORKBENCH, *map(str, arguments)], cwd=PROJECT, input=typed, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    return Ran(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - started)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def drawn(outputs: Path) -> Ran:
    """Draws one image by `run`."""
    return workbench(*SAME, "--output", outputs)


@pytest.fixture(scope="module")
def drawn_again(outputs: Path) -> Ran:
    """Repeats the same request, answered as JSON."""
    return workbench(*SAME, "--output", outputs, "--fresh", "--json")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_server(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def spaced(tmp_path: Path, shipped_workflows: Path, shapes_model: Path) -> Path:
    """A workflow in a folder and file with spaces in their names, slow enough to be stopped."""
    document = json.loads((shipped_workflows / "text-to-image.json").read_text())
    source = document["steps"][0]["pipeline"]["from_pretrained_arguments"]
    source["model_name"] = str(shapes_model)
    document["variables"] |= {"steps": 50, "pictures": 4}
    path = tmp_path / "my own" / "a star or two.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    return path


# --- run -----------------------------------------------------------------------------------------


def test_run_prints_the_files_it_wrote_and_nothing_else(drawn: Ran, outputs: Path) -> None:
    assert drawn.exit_code == 0, drawn.stderr
    (file,) = map(Path, drawn.stdout.splitlines())
    assert file.is_relative_to(outputs)
    assert pixels(file).shape == (128, 128, 3)
    assert drawn.stderr.splitlines()[-1].startswith("Done in ")
    assert drawn.stderr.splitlines()[-1].endswith(", seed 5")


def test_run_prints_one_json_object_with_json_option(drawn_again: Ran) -> None:
    assert drawn_again.exit_code == 0, drawn_again.stderr
    told = json.loads(drawn_again.stdout)
    assert (told["outcome"], told["seed"], told["error"]) == ("succeeded", 5, None)
    assert [Path(file).is_file() for file in told["files"]] == [True]
    assert any(title.startswith("unet of shapes") for title in told["loaded"])
    assert told["unchanged"] is False
    assert told["seconds"] > 0


def test_run_with_same_seed_draws_same_pixels_to_another_file(drawn: Ran, drawn_again: Ran) -> None:
    (first,), (again,) = drawn.stdout.splitlines(), json.loads(drawn_again.stdout)["files"]
    assert first != again
    assert np.array_equal(pixels(Path(first)), pixels(Path(again)))


def test_run_without_fresh_reuses_newest_file(drawn_again: Ran, outputs: Path) -> None:
    again = workbench(*SAME, "--output", outputs, "--log-level", "DEBUG")
    assert again.exit_code == 0, again.stderr
    assert again.stdout.splitlines() == json.loads(drawn_again.stdout)["files"]
    assert re.search(r"Unchanged: from \d\d:\d\d, seed 5\. `--seed N` makes another", again.stderr)
    assert "Loading" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--device", "foo"], {}, "DW_DEVICE: 'foo' does not have the form"),
        (["--workflows", "no such folder"], {}, "'no such folder'"),
        (["--models", "no such folder"], {}, "'no such folder' for --models"),
        ([], {"DW_AUTH": "me"}, "DW_AUTH: A login has the form name:password"),
        ([], {"DW_AUTH": "me:"}, "DW_AUTH: A login has the form name:password"),
        ([], {"DW_PUBLIC": "maybe"}, "DW_PUBLIC: True or false is needed, not 'maybe'."),
        ([], {"DW_DEVICE_BUDGET": "20 cats"}, "DW_DEVICE_BUDGET: A size such as 500MB"),
        ([], {"DW_DEVICES": "gpu"}, "DW_DEVICES: 'gpu' does not have the form"),
        ([], {"DW_DEVICE": "cpu", "DW_DEVICES": "cpu,cpu"}, "DW_DEVICES: Either one device or"),
        ([], {"DW_CANCEL_GRACE_S": "inf"}, "DW_CANCEL_GRACE_S: A finite number is needed"),
    ],
)
def test_invalid_setting_is_a_sentence(
    arguments: list[str], environment: dict[str, str], told: str
) -> None:
    ended = subprocess.run(
        [*WORKBENCH, "workflows", *arguments], cwd=PROJECT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_device_and_devices_together_are_refused() -> None:
    ran = workbench("serve", "--device", "cpu", "--devices", "cpu,cpu")
    assert (ran.exit_code, ran.stdout.removesuffix("Stopping.\n")) == (1, "")
    assert ran.stderr.startswith("--device and --devices cannot be given together. Use ")


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["run", "text-to-image"], ["repl"]])
def test_unwritable_outputs_are_refused_before_start(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = workbench(*command, "--output", tmp_path / "file" / "results")
    assert (ran.exit_code, ran.stdout.removesuffix("Stopping.\n")) == (1, "")
    assert ran.stderr.startswith("Results cannot be written to '")
    assert "file' is no folder. Choose another folder with --output" in ran.stderr


def test_missing_device_is_a_sentence_after_one_start(tmp_path: Path) -> None:
    ran = workbench("run", "text-to-image", "--device", "cuda:99", "--output", tmp_path)
    assert ran.exit_code == 1
    assert ran.stderr.splitlines()[-1].startswith("The device 'cuda:99' cannot be used: ")
    assert ran.stderr.count("cannot be used") == 3  # the worker's start, the run's end, the answer
    assert "Traceback" not in ran.stderr


def test_invalid_inputs_are_reported_together_before_loading(drawn: Ran, tmp_path: Path) -> None:
    ran = workbench(
        "run", "text-to-image", "steps=many", "guidance_scale=11", "colour=red",
        "--log-level", "DEBUG", "--output", tmp_path / "none",
    )  # fmt: skip
    assert ran.exit_code == 1
    assert ran.stdout == ""
    for place in ("inputs.steps: ", "inputs.guidance_scale: ", "inputs.colour: "):
        assert f"\n- {place}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Loading" not in ran.stderr
    assert not (tmp_path / "none").exists()
    assert ran.seconds < drawn.seconds


def test_home_is_replaced_in_paths_but_not_in_texts(
    tmp_path: Path, shapes_model: Path, shipped_workflows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    document = json.loads((shipped_workflows / "variations.json").read_text())
    source = document["steps"][0]["pipeline"]["from_pretrained_arguments"]
    source["model_name"] = str(shapes_model)
    (tmp_path / "mine.json").write_text(json.dumps(document))
    Image.new("RGB", (128, 128), "white").save(tmp_path / "start.png")
    asked = ["~/mine.json", "image=~/start.png", "prompt=\ufeff~", "steps=2"]
    assert workbench("validate", *asked).exit_code == 0
    ran = workbench("run", *asked, "--device", "cpu", "--output=~/made")
    assert ran.exit_code == 0, ran.stderr
    (file,) = map(Path, ran.stdout.splitlines())
    assert file.is_relative_to(tmp_path / "made")
    inputs = json.loads(file.with_name(f"{file.name}.json").read_text())["inputs"]
    assert inputs["prompt"] == "~"


def test_input_without_equals_sign_is_a_usage_error() -> None:
    ran = workbench("run", "text-to-image", "steps")
    assert ran.exit_code == 2
    assert "'steps' is not of the form name=value" in ran.stderr


def test_set_changes_a_value_and_says_where_a_pointer_leads_nowhere() -> None:
    width = "/steps/0/pipeline/arguments/width"
    assert workbench("validate", "text-to-image", "--set", f"{width}=256").exit_code == 0
    ran = workbench(
        "validate", "text-to-image", "--set", f"{width}=255", "--set", "/steps/1/name=x"
    )
    assert ran.exit_code == 1
    assert "255 is not a multiple of 8" in ran.stderr
    assert "/steps/1/name: The list has 1 items, and none at '1'." in ran.stderr


def test_mistyped_workflow_gets_a_hint() -> None:
    ran = workbench("run", "text-to-imag")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr == "There is no workflow 'text-to-imag'. Did you mean 'text-to-image'?\n"


def test_ctrl_c_cancels_the_run_and_leaves_no_process(spaced: Path, tmp_path: Path) -> None:
    command = [*WORKBENCH, "run", str(spaced), "--log-level", "INFO", "--device", "cpu",
               "--output", str(tmp_path / "none")]  # fmt: skip
    with started(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        log = iter(process.stderr.readline, "")
        assert any("Loading scheduler from model" in line for line in log)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        # As from a terminal: to the whole foreground group, the worker too.
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith("Cancelled while ")
    assert left_over(children, within_s=5) == []


# --- validate, workflows -------------------------------------------------------------------------


def test_validate_names_the_steps_of_a_workflow_that_can_run(spaced: Path) -> None:
    ran = workbench("validate", spaced, "steps=3")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith("draw: StableDiffusionPipeline of ")
    assert ran.stdout.endswith("'text-to-image' has no mistake: 1 step(s).\n")


def test_validate_reports_memory_needs_of_each_step(
    spaced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = r"text-to-image: 22 MB of weights \(unet 17 MB, vae 4 MB, text_encoder 2 MB\), about "
    on_cpu = workbench("validate", spaced, "pictures=1", "--device", "cpu")
    assert re.search(
        needed + r"11 MB more while it runs; fits in [\d.]+ GB, on a CPU\.", on_cpu.stdout
    )
    monkeypatch.setenv("DW_DEVICE_BUDGET", "20MB")
    on_card = workbench("validate", spaced, "pictures=1", "--device", "cuda")
    assert re.search(
        needed + r"6 MB more while it runs; does not fit in 20 MB at once: the unet alone has"
        r" 17 MB in float32; model offload is used\.",
        on_card.stdout,
    )
    monkeypatch.delenv("DW_DEVICE_BUDGET")
    unknown = workbench("validate", spaced, "pictures=1", "--device", "cuda").stdout
    assert "more while it runs.\n" in unknown
    assert "set DW_DEVICE_BUDGET" in unknown


def test_models_folder_takes_precedence_over_hub(
    spaced: Path, tmp_path: Path, shapes_model: Path
) -> None:
    (tmp_path / "held" / "test").mkdir(parents=True)
    (tmp_path / "held" / "test" / "here").symlink_to(shapes_model)
    document = json.loads(spaced.read_text())
    loading = document["steps"][0]["pipeline"]["from_pretrained_arguments"]
    loading["model_name"] = "test/here"
    spaced.write_text(json.dumps(document))
    without = workbench("validate", spaced, "--device", "cpu").stdout
    found = workbench("validate", spaced, "--device", "cpu", "--models", tmp_path / "held").stdout
    assert "until 'test/here' has been downloaded" in without
    assert "22 MB of weights" in found


def test_validate_asks_hub_about_missing_model(
    spaced: Path, tmp_path: Path, shapes_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shapes_model, tmp_path / "hub" / "test" / "far")
    hub = Hub(tmp_path / "hub")
    hub.only(monkeypatch, tmp_path / "home")
    document = json.loads(spaced.read_text())
    loading = document["steps"][0]["pipeline"]["from_pretrained_arguments"]
    here = workbench("validate", spaced, "--device", "cpu").stdout.splitlines()
    loading["model_name"] = "test/far"
    spaced.write_text(json.dumps(document))
    far = workbench("validate", spaced, "--device", "cpu")
    assert far.stdout.splitlines()[1] == here[1]
    assert here[1].startswith("text-to-image: 22 MB of weights (unet 17 MB, ")
    hub.close()
    gone = workbench("validate", spaced, "--device", "cpu")
    assert gone.stdout.splitlines()[1:] == [
        "text-to-image: memory needs unknown until 'test/far' has been downloaded: the hub"
        " does not answer (ConnectError).",
        "'text-to-image' has no mistake: 1 step(s).",
    ]
    assert (gone.exit_code, gone.stderr) == (0, far.stderr)


def test_validate_reports_every_mistake(spaced: Path) -> None:
    document = json.loads(spaced.read_text())
    document["steps"][0]["pipeline"]["arguments"]["guidance_scale"] = "variable:no"
    document["steps"][0]["result"]["content_type"] = "image/psd"
    spaced.write_text(json.dumps(document))
    ran = workbench("validate", spaced)
    assert (ran.exit_code, ran.stdout) == (1, "")
    for word in ("There is no variable 'no'", "'image/psd'"):
        assert word in ran.stderr


def test_validate_reports_pointer_and_line_for_several_files(spaced: Path, tmp_path: Path) -> None:
    document = json.loads(spaced.read_text())
    document["steps"][0]["pipeline"]["arguments"] |= {"width": 100, "promt": "a star"}
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(document, indent=2))
    lines = wrong.read_text().splitlines()
    width, promt = (
        next(number for number, line in enumerate(lines, 1) if word in line)
        for word in ('"width": 100', '"promt"')
    )
    ran = workbench("validate", wrong, spaced, "steps=3", tmp_path / "none.json")
    assert ran.exit_code == 1
    assert ran.stdout.endswith("'text-to-image' has no mistake: 1 step(s).\n")
    assert ran.stderr.splitlines() == [
        "'wrong' cannot run as it stands.",
        f"- /steps/0/pipeline/arguments/width (line {width}): 100 is not a multiple of 8, which"
        " StableDiffusionPipeline needs. The nearest is 104.",
        f"- /steps/0/pipeline/arguments/promt (line {promt}): StableDiffusionPipeline takes no"
        " 'promt'."
        " Did you mean 'prompt'?",
        f"There is no workflow file '{tmp_path / 'none.json'}'.",
    ]
    assert workbench("validate", "steps=3").exit_code == 1


def test_workflows_lists_shipped_workflows(shipped_workflows: Path) -> None:
    listed = workbench("workflows")
    assert listed.exit_code == 0, listed.stderr
    names = {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    assert {path.stem for path in shipped_workflows.glob("*.json")} <= names
    assert "downloads about" in listed.stdout


def test_workflows_lists_further_folders(tmp_path: Path, spaced: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(spaced, tmp_path / name / f"from-{name}.json")
    listed = workbench(
        "workflows", "--json", "--workflows", tmp_path / "one", "--workflows", tmp_path / "two"
    )
    assert listed.exit_code == 0, listed.stderr
    ready = {entry["name"] for entry in json.loads(listed.stdout) if entry["ready"]}
    assert {"from-one", "from-two", "text-to-image"} <= ready


# --- free ----------------------------------------------------------------------------------------


def test_free_makes_server_drop_components(server: Server, tmp_path: Path) -> None:
    script = "load text-to-image\nrun steps=1\n"
    ran = workbench("repl", "--server", server.url, "--output", tmp_path, typed=script)
    assert ran.exit_code == 0, ran.stdout
    assert server.status()["held"]
    freed = workbench("free", "--server", server.url)
    assert freed.exit_code == 0, freed.stderr
    assert freed.stdout.startswith("Freed ")
    assert "unet of shapes (float32)" in freed.stdout
    assert server.status()["held"] == []
    again = workbench("free", "--server", server.url)
    assert again.stdout == "Nothing was held; there was nothing to free.\n"


def test_free_without_server_is_a_sentence() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        ran = workbench("free", "--server", url)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"No workbench could be reached at {url} (")
    assert ran.stderr.count("\n") == 1


# --- the command itself --------------------------------------------------------------------------


def test_no_words_open_the_prompt() -> None:
    assert parsed([]).name == "repl"


def test_missing_command_prints_usage() -> None:
    ran = workbench("--device", "cpu")
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("usage: python -m app ")


def test_invalid_environment_setting_is_named() -> None:
    ran = workbench("serve", "--port", "70000")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "DW_PORT: 70000 is too large; 65535 is the most." in ran.stderr


def test_converted_weights_are_listed_and_cleared(tmp_path: Path):
    store = ConvertedWeights(tmp_path / ".weights", 10_000_000)
    with store.writing("key", "unet of shapes (bfloat16)") as folder:
        (folder / "model.json").write_text(" " * 3_000_000)
    listed = workbench("weights", "--output", tmp_path)
    (line,) = listed.stdout.splitlines()
    assert (line.split()[:2], line.rpartition("  ")[2]) == (
        ["3", "MB"],
        "unet of shapes (bfloat16)",
    )
    cleared = workbench("weights", "--clear", "--output", tmp_path)
    assert cleared.stdout == "3 MB of converted weights removed.\n"
    assert workbench("weights", "--output", tmp_path).stdout == ""
    assert (listed.exit_code, cleared.exit_code) == (0, 0)


# --- order of words ------------------------------------------------------------------------------


def test_inputs_may_come_after_flags(tmp_path: Path):
    ran = workbench("run", "text-to-image", "--seed", "5", "steps=0", "--output", tmp_path)
    assert ran.exit_code == 1
    assert "inputs.steps: 0 is" in ran.stderr
    both = workbench("run", "text-to-image", "prompt=x", "--fresh", "steps=0", "guidance=7")
    assert "inputs.steps" in both.stderr
    assert "no variable 'guidance'" in both.stderr


def test_words_after_flags_of_other_commands_count():
    ran = workbench("validate", "--models", ".", "workflows/text-to-image.json", "steps=0")
    assert "steps" in ran.stderr + ran.stdout
    assert ran.exit_code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "text-to-image", "--seed", "5", "steps"], "'steps' is not of the form name=value"),
        (["run", "text-to-image", "--sede", "5"], "unrecognized arguments: --sede"),
        (["workflows", "--json", "steps=2"], "unrecognized arguments: steps=2"),
    ],
)
def test_wrong_words_are_a_usage_error(words: list[str], said: str):
    ran = workbench(*words)
    assert ran.exit_code == 2
    assert said in ran.stderr


def test_failed_run_prints_sentences_without_a_traceback(tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(PROJECT / "models" / "shapes", model)
    (weights,) = (model / "vae").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    document = json.loads((PROJECT / "workflows" / "text-to-image.json").read_text())
    loading = document["steps"][0]["pipeline"]["from_pretrained_arguments"]
    loading["model_name"] = str(model)
    (tmp_path / "cut.json").write_text(json.dumps(document))
    ran = workbench("run", tmp_path / "cut.json", "--output", tmp_path / "drawn")
    assert ran.exit_code == 1
    assert "Traceback" not in ran.stderr
    assert "The weights of the vae" in ran.stderr
    told = workbench(
        "run", tmp_path / "cut.json", "--output", tmp_path / "drawn", "--log-level", "INFO"
    )
    assert "Details of run" in told.stderr


def test_models_lists_the_models_of_a_kind(tmp_path: Path):
    for kind in ("Lora", "VAE"):
        (tmp_path / kind).mkdir()
        safetensors(tmp_path / kind / f"[{kind}].safetensors", weight=2000)
    (tmp_path / "VAE" / "page.safetensors").write_text("<html>")
    ran = workbench("models", "--models", tmp_path)
    assert ran.exit_code == 0
    assert "[Lora]" in ran.stdout
    assert "It is not a safetensors file: it begins with '<html>'." in ran.stdout
    asked = workbench("models", "--models", tmp_path, "--kind", "loras", "--json")
    [found] = json.loads(asked.stdout)
    assert found["name"] == "[Lora]"
    assert found["path"] == str(tmp_path / "Lora" / "[Lora].safetensors")
    empty = workbench("models", "--kind", "controlnet")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "It is looked for in: checkpoints/" in empty.stderr


def test_models_layout_names_more_folders(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    safetensors(tmp_path / "mine" / "ink.safetensors", weight=2000)
    layout = tmp_path / "extra_model_paths.yaml"
    layout.write_text("mine:\n  loras: mine\n")
    ran = workbench("models", "--models-layout", layout, "--json")
    assert [each["name"] for each in json.loads(ran.stdout)] == ["ink"]
    layout.write_text("mine:\n  lora_s: mine\n")
    refused = workbench("models", "--models-layout", layout)
    assert refused.exit_code == 1
    assert "'lora_s' of section 'mine' is no kind. Did you mean 'loras'?" in refused.stderr
