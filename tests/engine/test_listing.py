"""The page, `/status` and `python -m app runs` list the same runs."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.api.people import People
from app.catalog.catalog import Catalog
from app.settings import PathSettings, UiSettings
from app.shell.cli import main
from app.ui.api import ScriptApi
from app.ui.generate import GenerateTab
from app.ui.visits import read_visit
from tests.doubles.scripted_worker import LOOK_AGAIN_S
from tests.engine.bench import PATIENCE_S, Bench

PERSON = "a" * 32
OPERATOR: Any = SimpleNamespace(
    client=SimpleNamespace(host="127.0.0.1"),
    headers={"host": "127.0.0.1:7860"},
    username=None,
    session_hash="a session",
)


def test_page_status_and_command_list_the_same_runs_with_the_same_states(
    own: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    paths = PathSettings(workflows=(own.workflow.parent,), outputs=own.outputs)
    catalog = Catalog(paths)
    people = People(UiSettings(), catalog)
    api = ScriptApi(own.engine, catalog, tmp_path, people, unread_s=30.0)

    async def tab_of_the_page() -> GenerateTab:
        # In an event loop, as Gradio makes one for each page otherwise and leaves it open.
        with gr.Blocks(analytics_enabled=False):
            return GenerateTab(own.engine, catalog, paths, people)

    tab = asyncio.run(tab_of_the_page())
    with_result = own.run("save a.txt", owner=PERSON)
    ended = own.run("fail on purpose", owner=PERSON)
    running = own.underway(f"wait for {own.gate()}", owner=PERSON)
    waiting = own.submit(owner=PERSON)
    expected = [
        (waiting, "ready"),
        (running, "running"),
        (ended.run_id, "failed"),
        (with_result.run_id, "succeeded"),
    ]

    def of_command() -> list[tuple[str, str]]:
        assert main(["runs", "--json", "--output", str(own.outputs)]) == 0
        return [(run["id"], run["state"]) for run in json.loads(capsys.readouterr().out)]

    told = api.status(OPERATOR)["runs"]
    assert [(run["run_id"], run["state"]) for run in told] == expected
    # (A run's start and end are told before they are written down.)
    deadline = time.monotonic() + PATIENCE_S
    while (listed := of_command()) != expected:
        assert time.monotonic() < deadline, listed
        time.sleep(LOOK_AGAIN_S)
    opened = tab.open_page(read_visit({"person": PERSON}))
    assert opened[tab.request].run_id == waiting
    assert [result.run_id for result in opened[tab.outcome.results]] == [with_result.run_id]
    assert [(info.run_id, info.state) for info in own.engine.runs(PERSON)] == expected
    own.gate().touch()
    assert own.finish(waiting).success


def test_status_lists_a_guest_no_runs_of_others(own: Bench, tmp_path: Path):
    catalog = Catalog(PathSettings(workflows=(own.workflow.parent,), outputs=own.outputs))
    public = People(UiSettings(public=True, host="0.0.0.0"), catalog)
    api = ScriptApi(own.engine, catalog, tmp_path, public, unread_s=30.0)
    own.run(owner="somebody else")
    mine = own.run(owner="script a session").run_id
    guest = SimpleNamespace(**{**vars(OPERATOR), "client": SimpleNamespace(host="203.0.113.1")})
    listed = api.status(guest)["runs"]  # type: ignore[arg-type]
    assert [(run["run_id"], run["mine"]) for run in listed] == [(mine, True)]
