"""Reloaded pages, several people, and a killed worker."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from gradio_client import Client
from playwright.sync_api import expect

from tests.browser.visit import DONE, DRAWING, OpenPage, Visit
from tests.servers import Server

pytestmark = pytest.mark.browser


def test_reloaded_page_follows_run_to_result(visit: Visit) -> None:
    visit.prompt.fill("a cyan diamond on a black background")
    visit.ask_for_much()
    visit.generate()
    visit.wait_for(DRAWING)
    visit.reload()
    visit.wait_for(DRAWING)
    expect(visit["generate"]).to_be_disabled()
    expect(visit.prompt).to_have_value("a cyan diamond on a black background")
    visit.wait_for(DONE)
    expect(visit.thumbnails).to_have_count(4)
    visit.source(visit.result)

    visit.reload()
    visit.wait_for(DONE)
    expect(visit.thumbnails).to_have_count(4)


def test_typed_values_survive_reload_without_run(visit: Visit) -> None:
    visit.set_number("steps", 7)
    visit.prompt.fill("a gray crescent")
    visit.reload()
    expect(visit.prompt).to_have_value("a gray crescent")
    visit.choose("Variations")
    visit.prompt.fill("a brown ring")
    visit.reload()
    expect(visit["input-image"]).to_be_visible()
    expect(visit.prompt).to_have_value("a brown ring")
    visit.choose("Text to image")
    expect(visit.prompt).to_have_value("a gray crescent")
    expect(visit["input-steps"].locator("input[type=number]")).to_have_value("7")


def test_page_starts_fresh_after_server_restart(visit: Visit) -> None:
    visit.prompt.fill("a gray crescent")
    visit.page.evaluate("document.body.append('the page of before')")
    visit.page.evaluate("window.gradio_config.app_id = 1")
    visit.page.context.set_offline(True)
    expect(visit["chip"]).to_contain_text("connection lost")
    visit.page.context.set_offline(False)
    expect(visit.page.get_by_text("the page of before")).to_have_count(0)
    expect(visit.prompt).to_have_value("a gray crescent")
    visit.set_number("steps", 2)
    visit.run()
    # Logged by the browser and Gradio about the missing server.
    visit.errors.clear()


def test_waiting_page_shows_position_and_may_cancel(open_page: OpenPage) -> None:
    first, second, third = open_page(), open_page(), open_page()
    first.choose_long()
    third.set_number("steps", 2)
    first.generate()
    first.wait_for(DRAWING)
    second.generate()
    second.wait_for("Waiting · next in line")
    third.generate()
    third.wait_for("Waiting · position 2")
    second.cancel()
    second.wait_for("Cancelled while it was waiting")
    third.wait_for("Waiting · next in line")
    expect(first.status).to_have_text(DRAWING)
    first.cancel()
    first.wait_for("Cancelled while drawing")
    third.wait_for(DONE)
    third.source(third.result)


def test_runs_of_two_pages_and_two_scripts_never_overlap(
    open_page: OpenPage, server: Server
) -> None:
    pages = [open_page(), open_page()]
    for page in pages:
        page.set_number("steps", 10)
    start = len(server.log.read_text())
    clients = [Client(server.url, verbose=False, analytics_enabled=False) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        scripts = [
            threads.submit(client.predict, steps=10, api_name="/run_text_to_image")
            for client in clients
        ]
        for page in pages:
            page.generate()
        for page in pages:
            page.wait_for(DONE)
        done = [script.result(timeout=60) for script in scripts]
    for client in clients:
        client.close()
    assert [answer["event"] for answer in done] == ["done", "done"]

    logged = server.runs_logged(start)
    starts, ends = logged[::2], logged[1::2]
    assert len(starts) == len(ends) == 4
    for (started_id, started), (ended_id, ended) in zip(starts, ends, strict=True):
        assert (started, ended) == ("started", "ended: succeeded")
        assert started_id == ended_id


def test_killed_worker_fails_run_and_page_continues(visit: Visit, server: Server) -> None:
    visit.ask_for_much()
    visit.generate()
    visit.wait_for(DRAWING)
    worker = server.status()["pid"]
    os.kill(worker, signal.SIGKILL)
    visit.wait_for("Failed")
    expect(visit.problems).to_contain_text(re.compile("worker process was ended by SIGKILL"))

    visit.set_number("pictures", 1)
    visit.set_number("steps", 2)
    visit.run()
    assert server.status()["pid"] != worker
