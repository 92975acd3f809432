"""`python -m app runs`: its list of an outputs folder, with and without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.engine.store import Store
from app.errors import ErrorReport
from app.protocol import RunFailed, RunSucceeded, Timings
from app.shell.cli import main
from tests.engine.test_store import a_result, a_run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A folder whose history has a run of each state."""
    store = Store(tmp_path, as_keeper=False)
    for name in ("queued", "preparing", "ready", "running", "succeeded", "failed"):
        store.add(a_run(name, inputs={"prompt": f"a fox, {name}"}))
    for name in ("preparing", "ready"):
        store.note_state(name, name)
    store.note_started("running", 5.0)
    timings = Timings(total_s=2.0)
    succeeded = RunSucceeded(run_id="succeeded", time=9.0, timings=timings, loaded=())
    store.note_ended("succeeded", succeeded, [a_result(tmp_path, "succeeded")])
    error = ErrorReport(kind="LoadError", message="The model is broken.")
    store.note_ended("failed", RunFailed(run_id="failed", time=6.0, error=error))
    store.close()
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["runs", *arguments]) == 0
    return capsys.readouterr().out


def test_runs_are_listed_as_json_newest_first_with_their_states(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    server = Store(outputs)
    runs = json.loads(listed(capsys, "--json", "--output", str(outputs)))
    server.close()
    assert [run["state"] for run in runs] == [
        "failed", "succeeded", "running", "ready", "preparing", "queued",
    ]  # fmt: skip
    assert [run["id"] for run in runs] == [run["state"] for run in runs]
    succeeded = runs[1]
    assert succeeded["results"] == [str(outputs / "succeeded" / "a.png")]
    assert (succeeded["workflow"], succeeded["ended_at"]) == ("text-to-image", 9.0)


def test_runs_are_found_by_words_and_limited(outputs: Path, capsys: pytest.CaptureFixture[str]):
    text = listed(capsys, "fox", "succ", "--output", str(outputs))
    assert text.splitlines()[0].split()[:2] == ["succeeded", "succeeded"]
    assert text.splitlines()[1].strip() == str(outputs / "succeeded" / "a.png")
    assert len(listed(capsys, "--limit", "2", "--output", str(outputs)).splitlines()) == 3


def test_folder_without_history_lists_nothing_and_is_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert listed(capsys, "--output", str(tmp_path / "none")) == ""
    assert list(tmp_path.iterdir()) == []
